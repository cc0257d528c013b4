"""The queue of one process: every run gets its turns, nothing is forgotten, and no failure ends it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.backoff import Backoff
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.queues import local
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.types import RunKind
from ml_backend.storage.database import StoreError

NEVER = 3600.0


@dataclass
class Heap:
    """Runs with so many pieces of work; the ledger and the worker of this test."""

    left: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    unread: list[Exception] = field(default_factory=list)
    looks: int = 0
    tidied: list[str] = field(default_factory=list)
    kinds: list[Collection[RunKind]] = field(default_factory=list)
    at_work: int = 0
    most: int = 0

    async def work(self, run: str) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        if not self.left[run]:
            return False
        self.left[run] -= 1
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await asyncio.sleep(0.002)
        self.at_work -= 1
        self.done.append(run)
        return self.left[run] > 0

    def unfinished(self, kinds: Collection[RunKind]) -> list[Any]:
        self.looks += 1
        self.kinds.append(kinds)
        if self.unread:
            raise self.unread.pop(0)
        return [SimpleNamespace(id=run) for run, count in self.left.items() if count]

    def release_dead(self, host: str, alive: Callable[[int], bool]) -> int:
        assert alive(1)
        self.tidied.append(host)
        return 0


def play(heap: Heap, use: Callable[[LocalQueue], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        ledger: Any = heap
        queue = LocalQueue(heap.work, ledger, **{"every": NEVER, **options})
        async with asyncio.timeout(20):
            await use(queue)
            await queue.aclose()

    asyncio.run(main())


async def when(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits after failures take no time."""
    monkeypatch.setattr(local, "Backoff", lambda *_: Backoff(0.001, 0.002))


def test_runs_take_turns_until_both_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = Heap(Counter(a=6, b=6))

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: len(heap.done) == 12)

    play(heap, use, tickets=1)
    assert heap.most == 1
    assert set(heap.done[:2]) == {"a", "b"}, "neither waits for the other's end"
    assert heap.looks == 1


def test_several_tickets_are_used_at_a_time() -> None:
    heap = Heap(Counter(a=12))

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: len(heap.done) == 12)

    play(heap, use, tickets=3)
    assert 1 < heap.most <= 3


def test_a_run_begun_later_is_worked_on_as_soon_as_it_is_woken_from_any_thread() -> None:
    heap = Heap()

    async def use(queue: LocalQueue) -> None:
        queue.wake("early")  # before the start: nothing happens
        queue.start()
        await when(lambda: heap.looks == 1)
        heap.left["a"] = 3
        await asyncio.sleep(0.02)
        assert heap.done == []
        thread = threading.Thread(target=queue.wake, args=("a",))
        thread.start()
        await when(lambda: heap.done == ["a"] * 3)
        thread.join()

    play(heap, use)


def test_a_run_that_got_more_while_it_ended_is_looked_at_again() -> None:
    heap = Heap(Counter(a=1))

    async def use(queue: LocalQueue) -> None:
        async def work(run: str) -> bool:
            more = await heap.work(run)
            if len(heap.done) == 1:
                heap.left["a"] = 1
                queue.wake("a")
                await asyncio.sleep(0.01)
            return more

        queue._work = work
        queue.start()
        await when(lambda: len(heap.done) == 2)

    play(heap, use, tickets=1)


def test_what_nobody_woke_is_found_in_the_ledger() -> None:
    heap = Heap()

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: heap.looks == 2)
        heap.left["a"] = 2
        await when(lambda: len(heap.done) == 2)

    play(heap, use, every=0.005, kinds=[RunKind.TRAIN])
    assert heap.kinds[0] == [RunKind.TRAIN]


def test_leases_of_dead_processes_are_looked_for_at_once_and_then_seldom() -> None:
    heap = Heap()

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: heap.looks >= 1)
        assert len(heap.tidied) == 1
        await when(lambda: heap.looks >= 21)

    play(heap, use, every=0.002)
    assert len(heap.tidied) in (3, 4)


@pytest.mark.parametrize(
    "error", [StoreError("the database is away"), LedgerError("it is cancelled"), RuntimeError("unforeseen")]
)
def test_no_failure_of_one_micro_batch_ends_the_queue(error: Exception) -> None:
    heap = Heap(Counter(a=2, b=2), errors=[error] * 4)

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: len(heap.done) == 4)

    play(heap, use, every=0.01)


def test_a_database_that_is_away_is_asked_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    heap = Heap(Counter(a=1), unread=[StoreError("the database is away")] * 3)

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: heap.done == ["a"])

    play(heap, use, every=0.005)
    assert len([record for record in caplog.records if "the database is away" in record.getMessage()]) == 1


def test_a_process_that_cares_for_one_run_leaves_the_others_alone() -> None:
    heap = Heap(Counter(mine=2, other=2))

    async def use(queue: LocalQueue) -> None:
        queue.start()
        queue.wake("other")
        await when(lambda: len(heap.done) == 2 and heap.looks > 4)

    play(heap, use, every=0.005, only=frozenset({"mine"}))
    assert heap.done == ["mine"] * 2


def test_a_closed_queue_begins_nothing_more() -> None:
    heap = Heap(Counter(a=1000))

    async def use(queue: LocalQueue) -> None:
        queue.start()
        await when(lambda: len(heap.done) > 3)
        queue.close()
        queue.wake("a")
        await asyncio.sleep(0.02)
        seen, looks = len(heap.done), heap.looks
        await asyncio.sleep(0.05)
        assert (len(heap.done), heap.looks) == (seen, looks)

    play(heap, use, every=0.002, tickets=1)
