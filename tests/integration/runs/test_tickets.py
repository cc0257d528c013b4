"""Tickets on a real Redis: bounded, taken over, made anew after a restart; never in Label Studio's database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.redis_queue import TICKETS_PER_WORKER, RedisQueue, SharedDatabaseError
from ml_backend.runs.queues.redis_worker import TicketWorker
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as running:
        yield running


@dataclass
class Heap:
    """What a ledger is to the queue: runs with so many pieces of work, taken one at a time."""

    left: Counter[str]
    done: Counter[str] = field(default_factory=Counter)
    most: int = 0
    at_work: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, run: str) -> bool:
        with self.lock:
            if self.left[run] == 0:
                return False
            self.left[run] -= 1
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        time.sleep(self.seconds)
        with self.lock:
            self.done[run] += 1
            self.at_work -= 1
            return self.left[run] > 0

    def unfinished(self) -> list[str]:
        with self.lock:
            return [run for run, count in self.left.items() if count]


@contextmanager
def worker(server: RedisServer, heap: Heap, name: str = "w", **options: object) -> Iterator[TicketWorker]:
    queue = RedisQueue(server.url)
    options = {"reconcile_seconds": 0.2, "rest_seconds": 0.05, **options}
    made = TicketWorker(queue, heap.work, heap.unfinished, name=name, **options)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop(10)
        queue.close()


def test_a_run_is_done_to_its_end_and_its_tickets_go(server: RedisServer) -> None:
    heap = Heap(Counter(a=20, b=5))
    queue = RedisQueue(server.url)
    with worker(server, heap, reconcile_seconds=60):
        for run in heap.left:
            queue.wake(run)
        until(lambda: not heap.unfinished() and not heap.at_work, "both runs are done")
        until(lambda: queue.waiting("a") == queue.waiting("b") == 0, "no ticket waits")
    assert heap.done == Counter(a=20, b=5)
    assert heap.most <= TICKETS_PER_WORKER
    assert queue.workers() == 0  # it said good-bye
    queue.close()


def test_waking_again_and_again_makes_no_more_tickets(server: RedisServer) -> None:
    queue = RedisQueue(server.url)
    for _ in range(50):
        queue.wake("a")
    assert queue.waiting("a") == 1
    queue.wake("ab")  # another run, whose name begins alike
    assert (queue.waiting("a"), queue.waiting("ab")) == (1, 1)
    for name in ("w1", "w2", "w3"):
        queue.beat(name)
    for _ in range(50):
        queue.wake("a")
    assert queue.waiting("a") == 3 * TICKETS_PER_WORKER
    assert queue.workers() == 3
    queue.leave("w2")
    assert queue.workers() == 2
    queue.close()


def test_two_wake_at_the_same_time_without_flooding(server: RedisServer) -> None:
    queue = RedisQueue(server.url)
    queue.beat("w")
    threads = [threading.Thread(target=lambda: [queue.wake("a") for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.waiting("a") <= TICKETS_PER_WORKER * len(threads)
    queue.close()


def test_lost_tickets_are_made_anew(server: RedisServer) -> None:
    heap = Heap(Counter(a=3))
    with worker(server, heap):  # nobody ever wakes the run: its tickets are as good as lost
        until(lambda: heap.done["a"] == 3, "the reconciler found the run")


@pytest.mark.parametrize("keeps", [False, True])
def test_a_restart_of_redis_in_the_middle(tmp_path: Path, keeps: bool) -> None:
    heap = Heap(Counter(a=60), seconds=0.05)
    with redis_server(tmp_path / "redis", keeps=keeps) as server, ExitStack() as stack:
        for name in ("w1", "w2"):
            stack.enter_context(worker(server, heap, name))
        until(lambda: heap.done["a"] >= 5, "work began")
        server.kill()
        before = heap.done["a"]
        time.sleep(0.3)
        server.start()
        until(lambda: heap.done["a"] == 60, "work went on to its end", 60)
        assert before < 60
    assert heap.left["a"] == 0


def test_redis_may_come_after_the_worker(tmp_path: Path) -> None:
    heap = Heap(Counter(a=3))
    with redis_server(tmp_path / "redis") as server:
        server.kill()
        with worker(server, heap):
            time.sleep(0.3)
            server.start()
            until(lambda: heap.done["a"] == 3, "the worker found Redis", 60)


def _hang(url: str, taken: str) -> None:
    def work(run: str) -> bool:
        Path(taken).touch()
        time.sleep(600)
        return True

    TicketWorker(RedisQueue(url), work, list, name="doomed").start()
    time.sleep(600)


def test_a_killed_worker_leaves_nothing_that_blocks_the_others(server: RedisServer, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    doomed = multiprocessing.get_context("spawn").Process(target=_hang, args=(server.url, str(taken)))
    doomed.start()
    queue = RedisQueue(server.url)
    queue.wake("a")
    until(taken.exists, "the doomed worker has the ticket")
    assert doomed.pid is not None
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join()
    heap = Heap(Counter(a=4))
    with worker(server, heap):
        until(lambda: heap.done["a"] == 4, "another worker did it all")
    queue.close()


def test_tickets_of_other_models_go_back(server: RedisServer) -> None:
    heap = Heap(Counter(mine=5))
    with worker(server, Heap(Counter()), "other", suits=lambda run: False, reconcile_seconds=60):
        queue = RedisQueue(server.url)
        queue.wake("mine")
        with worker(server, heap, reconcile_seconds=60):
            until(lambda: heap.done["mine"] == 5, "the worker with the right models got the tickets")
        queue.close()


def test_a_ticket_that_fails_does_not_end_the_worker(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    heap = Heap(Counter(a=3))
    failures = iter([RuntimeError("the disk is full"), QueueError("no queue")])

    class Failing(Heap):
        def work(self, run: str) -> bool:
            for error in failures:
                raise error
            return heap.work(run)

        def unfinished(self) -> list[str]:
            return heap.unfinished()

    with worker(server, Failing(Counter())):
        until(lambda: heap.done["a"] == 3, "the worker went on")
    assert "a ticket of run a failed" in caplog.text


def test_stopping_finishes_what_is_at_work_and_leaves_the_rest(server: RedisServer) -> None:
    heap = Heap(Counter(a=50), seconds=0.2)
    with worker(server, heap) as running:
        until(lambda: heap.at_work == TICKETS_PER_WORKER, "both threads are at work")
        running.stop(10)
        assert heap.at_work == 0
    assert heap.done["a"] + heap.left["a"] == 50
    assert heap.left["a"] > 0


@pytest.mark.parametrize("key", ["rq:queues", "rq:workers", "rq:queue:default", "rq:job:0b1c"])
def test_label_studios_database_is_refused(server: RedisServer, key: str) -> None:
    queue = RedisQueue(server.url)
    queue.check()
    with server.client as client:
        client.set(key, "x")
    with pytest.raises(SharedDatabaseError, match=r"Label Studio keeps its own queues in database 1 .*/2"):
        queue.check()
    queue.close()
    other = RedisQueue(server.url.removesuffix("/1") + "/2")
    other.check()
    other.close()


def test_no_redis_is_said_clearly_and_without_the_password(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        url = server.url.replace("redis://", "redis://user:secret-word@")
    queue = RedisQueue(url)
    for ask in (queue.check, queue.workers, lambda: queue.wake("a")):
        with pytest.raises(QueueError, match="check REDIS_URL") as caught:
            ask()
        assert "secret-word" not in str(caught.value)
    queue.close()


def test_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="REDIS_URL is not an address like"):
        RedisQueue("label-studio:6379")
