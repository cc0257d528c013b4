"""Worker processes over a real Redis and a real PostgreSQL, with clocks that are wrong by minutes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ml_backend.context import AppContext
from ml_backend.runs.queues.redis_queue import TICKETS_PER_WORKER, RedisQueue
from ml_backend.runs.types import RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from tests.support.harness import backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.postgres import ABSENT, find_binaries, postgres_server
from tests.support.redis_server import redis_server
from tests.support.stub_worker import CONFIG, IDENTITY, Sleeper, tasks, worker
from tests.support.waiting import required, until

ROOT = Path(__file__).resolve().parents[3]
TASKS, BATCH, SECONDS = 120, 6, 0.1
CLOCKS = (0.0, 600.0, -600.0)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres_server(required(find_binaries(), ABSENT)) as server:
        yield server.new_database()


def project(count: int) -> LabelStudio:
    """Tasks from 1 on; every tenth shows nothing."""
    found = {number: {"data": data} for number, data in enumerate(tasks(count), 1)}
    server = LabelStudio(valid={f"Token {TOKEN}"}, tasks=found)
    server.project["label_config"] = CONFIG
    return server


def test_wrong_clocks_a_killed_worker_and_a_restart_of_redis(database: str, tmp_path: Path) -> None:
    with (
        label_studio(project(TASKS)) as server,
        redis_server(tmp_path / "redis") as redis,
        ExitStack() as stack,
    ):
        environment = {
            "REDIS_URL": redis.url,
            "DATABASE_URL": database,
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "INT_DATA_DIR": str(tmp_path / "data"),
            "INT_RUN_BATCH": str(BATCH),
        }
        settings = Settings(
            label_studio_url=server.url,
            label_studio_api_key=TOKEN,
            data_dir=tmp_path / "data",
            database_url=database,
            redis_url=redis.url,
        )
        context = AppContext.open(settings, identity=IDENTITY)
        queue = RedisQueue(redis.url)
        stack.callback(queue.close)
        stack.callback(context.store.close)
        children = [
            stack.enter_context(worker(f"worker{clock:+.0f}", tmp_path, environment, SECONDS, clock))
            for clock in CLOCKS
        ]
        until(lambda: queue.workers() == len(CLOCKS), "the workers are there")
        runs = context.runs(queue)
        run = runs.start(RunRequest(project=1)).run
        assert run is not None
        until(lambda: len(server.predictions) >= TASKS // 6, "some are pushed")
        os.kill(children[1].process.pid, signal.SIGKILL)
        children[1].process.wait()
        until(lambda: len(server.predictions) >= TASKS // 2, "half are pushed")
        redis.kill()
        time.sleep(0.5)
        redis.start()
        until(lambda: runs.ledger.get(run.id).state is RunState.FINISHED, "the run is finished")
        records = runs.ledger.records(run.id, limit=1000)
        rows = list(server.predictions.values())
    assert Counter(record.state for record in records) == {
        TaskState.DONE: TASKS - TASKS // 10,
        TaskState.ABSTAINED: TASKS // 10,
    }
    assert [len(found) for found in rows] == [1] * TASKS
    assert sum(record.attempts > 1 for record in records) <= TICKETS_PER_WORKER * BATCH, (
        "more than the killed one can have held"
    )


def test_a_backend_without_redis_and_a_worker_with_it_share_a_run_and_sigterm_gives_back(tmp_path: Path) -> None:
    with (
        label_studio(project(60)) as server,
        redis_server(tmp_path / "redis") as redis,
        backend(
            tmp_path / "data",
            load=lambda: Sleeper(0.15),
            identity=IDENTITY,
            label_studio_url=server.url,
            label_studio_api_key=TOKEN,
            run_batch=BATCH,
        ) as running,
        ExitStack() as stack,
    ):
        environment = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "INT_DATA_DIR": str(tmp_path / "data"),
            "INT_RUN_BATCH": str(BATCH),
        }
        child = stack.enter_context(worker("worker", tmp_path, environment, SECONDS))
        queue = RedisQueue(redis.url)
        stack.callback(queue.close)
        until(lambda: queue.workers() == 1, "the worker is there")

        run_id = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
        progress: Callable[[], dict[str, Any]] = lambda: running.client.get(f"/runs/{run_id}").json()  # noqa: E731
        until(lambda: progress()["workers"] == 2, "both are at work")
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(60) == 0
        assert queue.workers() == 0
        assert progress()["workers"] <= 1
        until(lambda: progress()["state"] == "finished", "the backend alone finishes it")
        records = running.client.get(f"/runs/{run_id}/tasks", params={"limit": 1000}).json()["tasks"]
    assert {record["attempts"] for record in records} == {1}  # what was given back does not count
    assert [len(found) for found in server.predictions.values()] == [1] * 60
