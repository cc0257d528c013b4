"""The queue on a real Redis, at its edges: connections, other people's keys, addresses in messages, resting workers."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ml_backend.runs.errors import UnknownRunError
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.redis_queue import TICKETS_PER_WORKER, RedisQueue, SharedDatabaseError
from ml_backend.runs.queues.redis_worker import TicketWorker
from ml_backend.storage.database import StoreError
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import until

NEVER = 3600.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("redis")
    with redis_server(folder, socket=folder / "redis.sock") as made:
        yield made


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    with running.client as client:
        client.flushall()
    return running


@pytest.fixture
def queue(server: RedisServer) -> Iterator[RedisQueue]:
    made = RedisQueue(server.url)
    yield made
    made.close()


def test_a_closed_queue_leaves_no_connection_behind(server: RedisServer) -> None:
    with server.client as client:
        before = len(client.client_list())
        queue = RedisQueue(server.url)
        queue.wake("a")
        assert len(client.client_list()) > before
        queue.close()
        until(lambda: len(client.client_list()) == before, "the connections are closed")


def test_a_connection_notices_when_the_network_has_gone(queue: RedisQueue) -> None:
    connection = queue.client.connection_pool.get_connection()
    try:
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    finally:
        queue.client.connection_pool.release(connection)


def test_label_studios_jobs_are_found_among_many_other_keys(server: RedisServer, queue: RedisQueue) -> None:
    with server.client as client:
        client.mset({f"other:{number}": "x" for number in range(3000)})
        queue.check()
        for number in range(12):
            client.set(f"rq:job:{number}", "x")
            with pytest.raises(SharedDatabaseError):
                queue.check()
            client.delete(f"rq:job:{number}")
        queue.check()


@pytest.mark.parametrize(
    ("url", "where", "number"),
    [
        ("redis://user:secret@redis.example:6380/3", "redis.example:6380", 3),
        ("redis://redis.example?password=secret", "redis.example", 0),
        ("unix:///run/redis.sock?db=3&password=secret", "/run/redis.sock", 3),
    ],
)
def test_messages_show_where_redis_is_and_no_secret(url: str, where: str, number: int) -> None:
    queue = RedisQueue(url)
    assert (queue.where, queue.number) == (where, number)
    queue.close()


def test_redis_can_be_reached_by_a_file_on_the_same_machine(server: RedisServer) -> None:
    queue = RedisQueue(f"unix://{server.socket}?db=1")
    queue.check()
    queue.wake("a")
    assert queue.waiting("a") == 1
    queue.close()
    over_the_network = RedisQueue(server.url)
    assert over_the_network.waiting("a") == 1
    over_the_network.close()


def test_a_server_that_is_away_is_named_with_the_reason(tmp_path: Any) -> None:
    queue = RedisQueue(f"unix://{tmp_path}/none.sock")
    with pytest.raises(QueueError, match="No such file") as caught:
        queue.workers()
    assert "none.sock" in str(caught.value)
    assert "check REDIS_URL" in str(caught.value)


def test_tickets_are_counted_by_run(queue: RedisQueue) -> None:
    for _ in range(3):
        queue.wake("a")
    assert (queue.waiting("a"), queue.waiting("b"), queue.workers()) == (1, 0, 0)
    queue.beat("w1")
    queue.wake("a")
    assert (queue.waiting("a"), queue.workers()) == (TICKETS_PER_WORKER, 1)


def working(queue: RedisQueue, work: Callable[[str], bool], **options: Any) -> TicketWorker:
    given = {"reconcile_seconds": NEVER, "rest_seconds": 0.01, **options}
    made = TicketWorker(queue, work, given.pop("unfinished", list), name="w", **given)
    made.start()
    return made


def test_a_worker_rests_after_giving_a_ticket_back(queue: RedisQueue) -> None:
    looks: list[str] = []

    def suits(run: str) -> bool:
        looks.append(run)
        return False

    worker = working(queue, lambda _: False, suits=suits, rest_seconds=NEVER)
    queue.wake("a")
    until(lambda: looks, "somebody looked at the ticket")
    time.sleep(0.4)
    worker.stop(10)
    assert len(looks) <= TICKETS_PER_WORKER, "each thread looks once, and rests"


def test_what_is_at_work_is_finished_before_a_worker_stops(queue: RedisQueue) -> None:
    done: Counter[str] = Counter()

    def slow(run: str) -> bool:
        done["begun"] += 1
        time.sleep(0.3)
        done["ended"] += 1
        return False

    worker = working(queue, slow)
    queue.wake("a")
    until(lambda: done["begun"], "it began")
    worker.stop(20)
    assert done["ended"] == done["begun"] >= 1


def test_a_ticket_says_whether_the_run_has_more_and_only_then_is_another_made(queue: RedisQueue) -> None:
    left = Counter(a=5)

    def work(run: str) -> bool:
        left[run] -= 1
        return left[run] > 0

    worker = working(queue, work)
    queue.wake("a")
    until(lambda: left["a"] <= 0, "all was done, without a look into the ledger")
    until(lambda: queue.waiting("a") == 0, "no ticket waits")
    worker.stop(10)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("the database is away"), "the database is away"),
        (QueueError("Redis is away"), "Redis is away"),
        (QueueError(), "QueueError"),
    ],
)
def test_a_trouble_is_said_once_and_does_not_end_the_worker(
    queue: RedisQueue, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    done: list[str] = []
    errors = [error] * 3

    def work(run: str) -> bool:
        if errors:
            raise errors.pop()
        done.append(run)
        return False

    worker = working(queue, work, unfinished=lambda: [] if done else ["a"], reconcile_seconds=0.02)
    until(lambda: done, "it went on")
    worker.stop(10)
    told = [record for record in caplog.records if record.name == TicketWorker.__module__]
    assert sum(said == record.getMessage() for record in told) == 1


def test_a_ticket_of_a_run_that_is_unknown_or_of_no_run_is_thrown_away(
    queue: RedisQueue, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def work(run: str) -> bool:
        asked.append(run)
        if run == "gone":
            raise UnknownRunError(run)
        return False

    worker = working(queue, work)
    for run in ("x" * 65, "gone", "x" * 64):
        queue.wake(run)
    until(lambda: "x" * 64 in asked, "the last ticket was used")
    worker.stop(10)
    assert set(asked) == {"gone", "x" * 64}
    assert "Traceback" not in caplog.text
