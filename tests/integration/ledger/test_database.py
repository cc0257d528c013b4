"""Opening: new and old databases, several processes at once, wrong addresses, secrets."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import func, inspect, select, text

from int_model.runner.store import ResultKey
from ml_backend.doctor import local
from ml_backend.doctor.diagnosis import Level
from ml_backend.settings import Settings
from ml_backend.storage.database import Database, StoreError
from ml_backend.storage.migrations import config
from ml_backend.storage.store import Project, Store
from ml_backend.storage.tables import ResultRow, metadata
from tests.support.postgres import Server

OPEN = "import sys; from ml_backend.storage.database import Database; Database(sys.argv[1]).close()"


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        (unique,) = [i for i in inspect(connection).get_indexes("runs") if i["unique"]]
        assert unique["column_names"] == ["project", "kind", "model_version"]


def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, url], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate(timeout=120)[1].decode() for process in processes] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4


def test_a_database_of_a_newer_version_is_left_alone(opened: Callable[[], Database]) -> None:
    with opened().write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer version of int-backend"):
        opened()


def test_a_migration_that_breaks_changes_nothing(
    opened: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, *_: object, **__: object) -> None:
        raise RuntimeError("half-way")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", broken)
        with pytest.raises(RuntimeError, match="half-way"):
            opened()
    with opened().read() as connection:
        assert len(connection.execute(text("SELECT version_num FROM alembic_version")).all()) == 1


def test_the_migrations_can_be_taken_back(database: Database) -> None:
    from alembic import command

    made = config()
    with database.write() as connection:
        made.attributes["connection"] = connection
        command.downgrade(made, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(made, "head")


def test_the_store_works_on_both(database: Database) -> None:
    store = Store(database)
    long = "a long prompt, as long as a page; " * 200
    for payload in (b"one", b"two"):
        store.put_result(ResultKey("a" * 64, long, "v"), payload)
    store.put_result(ResultKey("a" * 64, long + ".", "v"), b"other")
    assert store.get_result(ResultKey("a" * 64, long, "v")) == b"two"
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(ResultRow)) == 2
    for title in ("x", "ü"):
        store.save_project(Project("1", {"prompt": title}, "<View/>"))
    assert store.projects() == [Project("1", {"prompt": "ü"}, "<View/>")]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://u:hunter2@host/db", "not mysql://"),
        ("hunter2", "DATABASE_URL must read postgresql://"),
        ("postgresql://u:hunter2@host:port/db", "DATABASE_URL must read postgresql://"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "check DATABASE_URL and that the PostgreSQL server runs"),
        ("sqlite:////no/such/folder/db", "INT_DATA_DIR"),
    ],
)
def test_an_address_that_cannot_be_used_names_the_cure_and_no_password(address: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Database(address)
    assert "hunter2" not in str(caught.value).replace("'hunter2'", "hunter2")


def test_the_settings_choose_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path / "data"))
    plain = Database.of(Settings())
    assert (tmp_path / "data" / "backend.sqlite3").is_file()
    plain.close()
    (tmp_path / "secret").write_text(f"sqlite:///{tmp_path / 'other.sqlite3'}\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "secret"))
    settings = Settings()
    assert str(tmp_path) not in repr(settings.database_url)
    other = Database.of(settings)
    assert other.where == f"sqlite:///{tmp_path / 'other.sqlite3'}"
    other.close()


def test_an_address_shows_without_its_password(postgres: Server) -> None:
    database = Database(postgres.new_database().replace("tester@", "tester:hunter2@"))
    assert "tester:***@" in database.where
    database.close()


def test_the_doctor_asks_the_database_and_leaves_its_tables_alone(postgres: Server) -> None:
    address = postgres.new_database()
    assert local.examine_database(Settings(database_url=None)) == []
    (diagnosis,) = local.examine_database(Settings(database_url=SecretStr(address)))
    assert (diagnosis.level, diagnosis.check) == (Level.OK, "database")
    database = Database(address, migrated=False)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == []
    database.close()
    (diagnosis,) = local.examine_database(Settings(database_url=SecretStr("postgresql://u:hunter2@127.0.0.1:1/db")))
    assert (diagnosis.level, diagnosis.remedy) == (
        Level.PROBLEM,
        "check DATABASE_URL and that the PostgreSQL server runs",
    )
    assert "hunter2" not in diagnosis.text


def test_a_server_that_was_restarted_is_connected_again(postgres: Server) -> None:
    database = Database(postgres.new_database())
    store = Store(database)
    store.put_result(ResultKey("sha", "p", "v"), b"x")
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'int-%'")
    assert store.get_result(ResultKey("sha", "p", "v")) == b"x"
    store.close()


def test_many_who_open_a_new_file_at_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    """Switching a new file to WAL fails at once, without any waiting by SQLite, while another looks at it."""
    errors: list[str] = []

    def open_it(address: str, start: threading.Barrier) -> None:
        start.wait()
        try:
            Database(address).close()
        except StoreError as error:
            errors.append(str(error))

    for turn in range(10):
        given = (f"sqlite:///{tmp_path / str(turn)}", threading.Barrier(6))
        threads = [threading.Thread(target=open_it, args=given) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
