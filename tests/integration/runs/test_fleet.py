"""``int-backend worker --devices``: processes that die are replaced, and all stop together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_backend.cli.workers.fleet import Fleet
from ml_backend.context import AppContext
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.types import RunRequest, RunState
from ml_backend.settings import Settings
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.redis_server import redis_server
from tests.support.stub_fleet import by_name
from tests.support.stub_worker import CONFIG, IDENTITY, tasks
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]
TASKS = 40


def children(pid: int) -> list[int]:
    """The worker processes of a fleet: multiprocessing starts one more, which looks after its semaphores."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextmanager
def fleet_process(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.support.stub_fleet", "cpu,cpu"]
    process = subprocess.Popen(command, env={**os.environ, **environment, "OMP_NUM_THREADS": "1"}, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_worker_is_replaced_and_all_stop_together(tmp_path: Path) -> None:
    server = LabelStudio(
        valid={f"Token {TOKEN}"}, tasks={number: {"data": data} for number, data in enumerate(tasks(TASKS), 1)}
    )
    server.project["label_config"] = CONFIG
    with label_studio(server), redis_server(tmp_path / "redis") as redis:
        environment = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "INT_DATA_DIR": str(tmp_path / "data"),
            "INT_RUN_BATCH": "4",
        }
        settings = Settings(
            label_studio_url=server.url,
            label_studio_api_key=TOKEN,
            data_dir=tmp_path / "data",
            redis_url=redis.url,
        )
        context, queue = AppContext.open(settings, identity=IDENTITY), RedisQueue(redis.url)
        with fleet_process(environment) as fleet:
            until(lambda: queue.workers() == 2, "both workers are there")
            run = context.runs(queue).start(RunRequest(project=1)).run
            assert run is not None
            until(lambda: len(server.predictions) >= 4, "some are pushed")
            before = children(fleet.pid)
            os.kill(before[0], signal.SIGKILL)
            until(lambda: len(set(children(fleet.pid)) - set(before)) == 1, "another one was started")
            until(lambda: context.ledger.get(run.id).state is RunState.FINISHED, "the run is finished")
            workers = children(fleet.pid)
            assert len(workers) == 2
            fleet.send_signal(signal.SIGTERM)
            assert fleet.wait(60) == 0
            assert not any(map(lives, workers))
        context.store.close()
        queue.close()
    assert [len(found) for found in server.predictions.values()] == [1] * TASKS


def test_workers_end_when_their_fleet_is_killed(tmp_path: Path) -> None:
    environment = {  # neither is there: the workers wait for them
        "REDIS_URL": "redis://127.0.0.1:1/1",
        "LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "LABEL_STUDIO_API_KEY": TOKEN,
        "INT_DATA_DIR": str(tmp_path),
    }
    with fleet_process(environment) as fleet:
        until(lambda: len(children(fleet.pid)) == 2, "both were started")
        workers = children(fleet.pid)
        fleet.kill()
        until(lambda: not any(map(lives, workers)), "both have ended")


def test_a_device_is_tried_again_then_left_alone_and_the_others_work_on(tmp_path: Path) -> None:
    told: list[str] = []
    devices = ["broken", "killed", "leaves", "good"]
    fleet = Fleet(Settings(data_dir=tmp_path), devices, told.append, by_name, waits=(0.01,))
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(fleet.run()))
    thread.start()

    def starts() -> list[int]:
        files = [tmp_path / device for device in devices]
        return [len(file.read_text().split()) if file.exists() else 0 for file in files]

    try:
        until(lambda: starts() == [2, 2, 1, 1], "all were started")
        until(lambda: sum("left alone" in line for line in told) == 2, "two devices were given up")
        assert thread.is_alive()
    finally:
        fleet.stop()
        thread.join(60)
    assert (status, starts()) == ([1], [2, 2, 1, 1])
    broken, killed = ([line for line in told if line.startswith(device)] for device in devices[:2])
    assert len(broken) + len(killed) == len(told) == 4
    assert all("(status 1)" in line for line in broken)
    assert all("(signal SIGKILL)" in line for line in killed)
