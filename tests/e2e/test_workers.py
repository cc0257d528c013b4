"""Three worker processes, a real Redis, a real Label Studio: one is killed, Redis is restarted, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from ml_backend.context import AppContext
from ml_backend.demo.client import DemoClient
from ml_backend.demo.server import LabelStudioServer
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.types import RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from tests.e2e.conftest import LOGS, Login
from tests.support.redis_server import redis_server
from tests.support.stub_worker import CONFIG, IDENTITY, tasks, worker
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

TASKS, WORKERS, BATCH = 150, 3, 8
TICKETS = 3  # that a worker uses at a time
SECONDS = 0.15
"""Per image; one worker alone would take 22 s."""


def imported(client: DemoClient, count: int) -> int:
    """A project with so many tasks, whose pictures are in the tasks themselves; every tenth shows nothing."""
    project = client.create_project("Workers", CONFIG)
    client.json("POST", f"/api/projects/{project}/import", body=tasks(count))
    return project


def test_a_killed_worker_and_a_restart_of_redis_lose_nothing_and_double_nothing(
    label_studio: LabelStudioServer, login: Login, tmp_path: Path
) -> None:
    client = login.client
    project = imported(client, TASKS)
    with redis_server(tmp_path / "redis") as redis, ExitStack() as stack:
        environment = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": login.token,
            "INT_DATA_DIR": str(tmp_path / "data"),
            "INT_RUN_BATCH": str(BATCH),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        context = AppContext.open(
            Settings(
                label_studio_url=label_studio.url,
                label_studio_api_key=login.token,
                data_dir=tmp_path / "data",
                redis_url=redis.url,
            ),
            identity=IDENTITY,
        )
        queue = RedisQueue(redis.url)
        stack.callback(queue.close)
        children = [
            stack.enter_context(worker(f"worker-{number}", LOGS, environment, SECONDS)) for number in range(WORKERS)
        ]
        until(lambda: queue.workers() == WORKERS, "the workers are there")

        runs = context.runs(queue)
        run = runs.start(RunRequest(project=project)).run
        assert run is not None

        def finished() -> int:
            progress = runs.ledger.progress(run.id)
            return progress.total - progress.left

        until(lambda: finished() >= TASKS // 5, "a fifth is done")
        os.kill(children[0].process.pid, signal.SIGKILL)
        children[0].process.wait()  # else its process id lives on
        until(lambda: finished() >= TASKS // 2, "half is done")
        assert finished() < TASKS
        redis.kill()
        time.sleep(1)
        redis.start()
        until(lambda: runs.ledger.get(run.id).state is RunState.FINISHED, "the run is finished")
        records = runs.ledger.records(run.id, limit=1000)
        context.store.close()

    assert Counter(record.state for record in records) == {
        TaskState.DONE: TASKS - TASKS // 10,
        TaskState.ABSTAINED: TASKS // 10,
    }
    again = [record.task for record in records if record.attempts > 1]
    assert len(again) <= TICKETS * BATCH, "more than the killed worker can have held"
    tasks = client.tasks(project)
    assert len(tasks) == TASKS
    for task in tasks:
        assert [entry["model_version"] for entry in task["predictions"]] == [run.spec.model_version], task["id"]
