"""A database of Redis that is Label Studio's: the worker, the service and the doctor say so, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.doctor.diagnosis import Level
from ml_backend.doctor.redis import examine_redis
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.settings import Settings
from tests.support.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def shared(server: RedisServer) -> Iterator[RedisServer]:
    with server.client as client:
        client.sadd("rq:queues", "rq:queue:default")
        yield server
        client.flushdb()


@pytest.mark.parametrize("command", ["worker", "serve"])
def test_commands_end_with_one_sentence(shared: RedisServer, command: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "REDIS_URL": shared.url,
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "INT_DATA_DIR": str(tmp_path),
        "INT_PORT": "0",
    }
    program = [sys.executable, "-m", "ml_backend.cli.main", command]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    said = done.stderr.strip().splitlines()
    assert len(said) == 1
    assert "Label Studio keeps its own queues in database 1 of Redis" in said[0]
    assert "REDIS_URL=redis://.../2" in said[0]


def settings(server: RedisServer) -> Settings:
    return Settings(redis_url=server.url)


def test_the_doctor_names_it(shared: RedisServer) -> None:
    (diagnosis,) = examine_redis(settings(shared))
    assert diagnosis.level is Level.PROBLEM
    assert "Label Studio keeps its own queues" in diagnosis.text
    assert "REDIS_URL=" in diagnosis.remedy


def test_the_doctor_counts_workers(server: RedisServer) -> None:
    (diagnosis,) = examine_redis(settings(server))
    assert diagnosis.level is Level.WARNING
    assert "int-backend worker" in diagnosis.remedy
    queue = RedisQueue(server.url)
    queue.beat("host:1:a")
    (diagnosis,) = examine_redis(settings(server))
    assert diagnosis.level is Level.OK
    assert "1 worker for runs" in diagnosis.text
    queue.leave("host:1:a")
    queue.close()


def test_the_doctor_without_redis_or_with_a_wrong_address(tmp_path: Path) -> None:
    assert examine_redis(Settings()) == []
    (diagnosis,) = examine_redis(Settings(redis_url="redis:6379"))
    assert diagnosis.level is Level.PROBLEM
    with redis_server(tmp_path / "gone") as gone:
        pass
    (diagnosis,) = examine_redis(settings(gone))
    assert diagnosis.level is Level.PROBLEM
    assert "check REDIS_URL" in diagnosis.remedy


def test_a_worker_needs_redis_and_label_studio(server: RedisServer, tmp_path: Path) -> None:
    for given, wanted in (({}, "a worker needs REDIS_URL"), ({"REDIS_URL": server.url}, "set LABEL_STUDIO_URL")):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LABEL_STUDIO")}
        environment |= {"INT_DATA_DIR": str(tmp_path), **given}
        program = [sys.executable, "-m", "ml_backend.cli.main", "worker"]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert wanted in done.stderr
