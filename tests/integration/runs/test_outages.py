"""A database that goes away, a data folder that is deleted, a disk that is full: what is said, and what goes on."""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ml_backend.cli.annotate import run_annotate
from ml_backend.cli.main import app
from ml_backend.cli.patience import outlast
from ml_backend.doctor.local import examine_service
from ml_backend.runs.calls import LedgerCalls
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunRequest, TaskResult, TaskState
from ml_backend.settings import Settings
from ml_backend.storage.database import Database, StoreError
from tests.integration.ledger.kit import SPEC
from tests.support.harness import backend
from tests.support.label_studio import label_studio, with_uploads
from tests.support.postgres import ABSENT, Server, find_binaries, postgres_server
from tests.support.redis_server import redis_server
from tests.support.waiting import required, until

AWAY = 2.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with postgres_server(required(find_binaries(), ABSENT), durable=True) as server:
        yield server


def back_after(server: Server, seconds: float) -> threading.Thread:
    def start() -> None:
        time.sleep(seconds)
        server.start()

    thread = threading.Thread(target=start)
    thread.start()
    return thread


def test_a_watcher_outlasts_a_restart_of_postgresql_and_says_so_once(postgres: Server) -> None:
    database = Database(postgres.new_database())
    run = Ledger(database).create(SPEC, [1, 2])
    said: list[str] = []
    postgres.kill()
    thread = back_after(postgres, AWAY)
    try:
        assert outlast(lambda: Ledger(database).progress(run.id), said.append).total == 2
    finally:
        thread.join()
        database.close()
    assert len(said) == 2
    assert said[0].endswith("; waiting for it")
    assert said[1].startswith("the database is back after")


def test_a_worker_outlasts_it_too_and_says_so_once(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(postgres.new_database())
    ledger = Ledger(database)
    run = ledger.create(SPEC, [1, 2, 3])
    lease = ledger.lease(run.id, "here:1:x", 3)
    assert lease is not None
    results = [[TaskResult(task, TaskState.DONE)] for task in lease.tasks]

    async def finish() -> None:
        calls = LedgerCalls()
        try:
            await asyncio.gather(*(calls.call(ledger.finish, lease, one) for one in results))
        finally:
            await calls.close()

    postgres.kill()
    thread = back_after(postgres, AWAY)
    try:
        with caplog.at_level(logging.WARNING, "ml_backend.runs.calls"):
            asyncio.run(finish())
    finally:
        thread.join()
    assert ledger.progress(run.id).counts[TaskState.DONE] == 3
    database.close()
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records if "waiting" in record.message] == [
        "it"
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_waiting_ends_when_it_is_told_to_and_after_the_time_it_is_given() -> None:
    def away() -> None:
        raise StoreError("away", transient=True)

    with pytest.raises(StoreError, match="away"):
        outlast(away, lambda _: None, stopping=lambda: True)
    with pytest.raises(StoreError, match="away"):
        outlast(away, lambda _: None, seconds=0.1)
    broken = StoreError("file is not a database")
    with pytest.raises(StoreError, match="not a database"):
        outlast(lambda: (_ for _ in ()).throw(broken), lambda text: pytest.fail(text))


@pytest.mark.parametrize(("address", "transient"), [("nobody", False), ("tester", True)])
def test_a_refused_user_is_not_waited_for(postgres: Server, address: str, transient: bool) -> None:
    url = postgres.url().replace("tester", address)
    if transient:
        url = url.replace(str(postgres.folder), str(postgres.folder / "elsewhere"))
    with pytest.raises(StoreError) as caught:
        Database(url)
    assert caught.value.transient is transient


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_deleted_data_folder_is_noticed_by_ledger_health_and_doctor(tmp_path: Path, replaced: bool) -> None:
    folder = tmp_path / "data"
    with backend(folder) as running:
        database = running.app.state.context.store.database
        ledger = Ledger(database)
        run = ledger.create(SPEC, [1, 2])
        lease = ledger.lease(run.id, "here:1:x", 2)
        assert lease is not None
        assert running.client.get("/health").json()["status"] == "UP"
        shutil.rmtree(folder)
        if replaced:
            Database.in_folder(folder).close()
        for call in (lambda: ledger.get(run.id), lambda: ledger.finish(lease, [TaskResult(1, TaskState.DONE)])):
            with pytest.raises(StoreError, match="was deleted or replaced") as caught:
                call()
            assert not caught.value.transient
        answer = running.client.get("/health")
        assert answer.status_code == 503
        assert "put the data folder back" in answer.json()["cure"]
        port = running.client.base_url.port
        found, there = examine_service(Settings(host="127.0.0.1", port=port, data_dir=folder))
        assert there
        assert found.level == "problem"
        assert "deleted or replaced" in found.text


def test_a_full_disk_is_down_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with backend(tmp_path) as running:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr("ml_backend.storage.database.shutil.disk_usage", lambda _: usage._replace(free=1000))
        answer = running.client.get("/health")
        assert (answer.status_code, answer.json()["cure"]) == (503, "make room")
        monkeypatch.undo()
        assert running.client.get("/health").json()["status"] == "UP"


def test_a_write_that_finds_the_disk_full_is_waited_for(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    ledger = Ledger(database)
    ledger.create(SPEC, range(100))
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError, match="disk is full") as caught, database.guard():
            connection.exec_driver_sql("CREATE TABLE large AS SELECT randomblob(1000000)")
    assert caught.value.transient
    database.close()


def _garbage(folder: Path) -> None:
    (folder / "backend.sqlite3").write_bytes(b"not a database at all " * 500)


def _newer(folder: Path) -> None:
    database = Database.in_folder(folder)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()


def _folder(folder: Path) -> None:
    (folder / "backend.sqlite3").mkdir()


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["runs", "list"]], ids=["serve", "runs"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_garbage, "file is not a database"), (_newer, "newer version of int-backend"), (_folder, "unable to open")],
)
def test_a_bad_database_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], spoil: object, said: str
) -> None:
    assert callable(spoil)
    spoil(tmp_path)
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 1, found.output
    assert said in found.output
    assert "Traceback" not in found.output
    assert [line for line in found.output.splitlines() if line.startswith("int-backend: ")]


def test_a_watcher_with_redis_says_that_no_worker_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.cli.annotate._LONELY_SECONDS", 0.5)
    out, err = io.StringIO(), io.StringIO()
    with label_studio(with_uploads(2)) as server, redis_server(tmp_path / "redis") as redis:
        settings = Settings(
            label_studio_url=server.url,
            label_studio_api_key="legacy",
            redis_url=redis.url,
            data_dir=tmp_path / "data",
        )
        database = Database.in_folder(tmp_path / "data")

        def cancel() -> None:
            until(lambda: "start int-backend worker" in err.getvalue(), "it is said")
            redis.kill()  # the watcher goes on without it
            time.sleep(1.0)
            Ledger(database).cancel("1")

        thread = threading.Thread(target=cancel)
        thread.start()
        with_width = {"width": 300}
        status = run_annotate(
            settings,
            RunRequest(project=7),
            tell=Console(file=out, **with_width),
            bar=Console(file=err, **with_width),
            debug=False,
        )
        thread.join()
        database.close()
    assert status == 1
    assert err.getvalue().count("no worker is there; start int-backend worker") == 1
    assert "run 1 cancelled" in out.getvalue()
