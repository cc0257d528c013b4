"""The SQLite database of a data folder: who may read it, what survives a failure, and what is said of its disk."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import OperationalError

from ml_backend.storage import database as module
from ml_backend.storage.database import Database, StoreError, epoch_now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.in_folder(tmp_path / "data")
    yield made
    made.close()


def rows(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM projects")).scalar_one())


def insert(connection: Any, name: str) -> None:
    connection.execute(
        text("INSERT INTO projects (id, extra_params, label_config, updated_at) VALUES (:id, '', '', '2026-01-01')"),
        {"id": name},
    )


def test_a_data_folder_is_made_with_the_folders_above_it_and_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "lib" / "int"
    for _ in range(2):
        Database.in_folder(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nobody_else_may_read_or_run_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    opened = module.create_engine

    def seen(*given: Any, **options: Any) -> Any:
        engine = opened(*given, **options)
        file = Path(str(engine.url.database))
        event.listen(engine, "connect", lambda *_: modes.append(stat.S_IMODE(file.stat().st_mode)))
        return engine

    monkeypatch.setattr(module, "create_engine", seen)
    database = Database.in_folder(tmp_path)
    database.close()
    assert modes
    assert set(modes) == {0o600}, "from the first moment that SQLite writes to it"


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def half() -> None:
        with database.write() as connection:
            insert(connection, "1")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        half()
    assert rows(database) == 0
    with database.write() as connection:
        insert(connection, "2")
    assert rows(database) == 1


def test_what_a_writer_reads_stays_true_until_it_has_written(database: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "data" / "backend.sqlite3", timeout=0)
    with database.write() as connection:
        assert connection.execute(text("SELECT count(*) FROM projects")).scalar_one() == 0
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("DELETE FROM projects")
    other.close()


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as connection:
        insert(connection, "1")
        assert rows(database) == 0
    assert rows(database) == 1


def test_the_clock_is_that_of_the_database_in_seconds_since_1970(database: Database) -> None:
    with database.read() as connection:
        said = float(connection.execute(text("SELECT strftime('%s', 'now')")).scalar_one())
        now = connection.scalar(select(epoch_now()))
    assert now is not None
    assert abs(now - said) < 60


@pytest.mark.parametrize(("free", "full"), [(0, True), (4_000_000, True), (5_000_000, False), (10**9, False)])
def test_little_space_is_told_before_the_disk_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch, free: int, full: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    trouble = database.trouble()
    assert (trouble is not None) is full
    if trouble is not None:
        assert trouble[1] == "make room"
        assert str(free) in trouble[0]


def test_nothing_is_wrong_with_a_database_in_memory_or_not_yet_made(tmp_path: Path) -> None:
    for address in ("sqlite://", "sqlite:///:memory:"):
        database = Database(address, migrated=False)
        assert database.trouble() is None
        database.close()
    looked = Database(f"sqlite:///{tmp_path / 'none.sqlite3'}", migrated=False)
    assert looked.trouble() is None
    assert not (tmp_path / "none.sqlite3").exists()
    looked.close()


def test_a_database_that_is_gone_is_told(database: Database, tmp_path: Path) -> None:
    assert database.trouble() is None
    shutil.rmtree(tmp_path / "data")
    trouble = database.trouble()
    assert trouble is not None
    assert "put the data folder back" in trouble[1]
    with pytest.raises(StoreError, match="was deleted or replaced"):
        rows(database)


def test_a_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="set INT_DATA_DIR"):
        Database.in_folder(tmp_path / "file" / "data")


@pytest.mark.parametrize("migrated", [True, False])
def test_only_a_migrated_database_has_tables(tmp_path: Path, migrated: bool) -> None:
    database = Database(f"sqlite:///{tmp_path / 'one.sqlite3'}", migrated=migrated)
    with database.read() as connection:
        tables = connection.execute(text("SELECT count(*) FROM sqlite_master WHERE name = 'runs'")).scalar_one()
    assert bool(tables) is migrated
    database.close()


@pytest.mark.parametrize(
    ("address", "is_sqlite"),
    [("sqlite:////tmp/x.db", True), ("postgresql://u@127.0.0.1:1/db", False), (" postgres://u@127.0.0.1:1/db ", False)],
)
def test_the_address_says_which_database_it_is(address: str, is_sqlite: bool) -> None:
    database = Database(address, migrated=False)
    assert database.is_sqlite is is_sqlite
    assert database.where.startswith("sqlite" if is_sqlite else "postgresql+psycopg://")
    database.close()


def test_what_the_address_asks_of_postgresql_goes_before_our_own_options() -> None:
    database = Database("postgresql://u@127.0.0.1:1/db?connect_timeout=3", migrated=False)
    assert "connect_timeout=3" in database.where
    assert "application_name=int-backend" in database.where
    database.close()


@pytest.mark.parametrize(
    ("reason", "passing"), [("database is locked", True), ("database or disk is full", True), ("no such table", False)]
)
def test_what_may_pass_by_itself_is_told_apart(database: Database, reason: str, passing: bool) -> None:
    with pytest.raises(StoreError, match=f"{reason}.*INT_DATA_DIR") as caught, database.guard():
        raise OperationalError("INSERT", {}, sqlite3.OperationalError(reason))
    assert caught.value.transient is passing
