"""Runs of another kind than predicting, done by a trivial executor: workers keep to the kinds that they can do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ml_backend.runs.errors import RunStopError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.plain import run_json
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.types import RunKind, RunSpec, RunState, TaskResult, TaskState
from ml_backend.runs.worker import RunWorker
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC, check

TRAIN = replace(SPEC, kind=RunKind.TRAIN)


@dataclass
class CountingExecutor:
    """Tasks are done by counting them; ``forgotten`` is not acknowledged the first time."""

    why: str = ""
    stops: str = ""
    forgotten: int | None = None
    done: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def unfit(self, spec: RunSpec) -> str:
        return self.why

    def open(self, session: RunSession) -> CountingWork:
        self.events.append(f"open {session.run.spec.kind}")
        return CountingWork(self)

    def close(self) -> None:
        self.events.append("executor closed")


@dataclass
class CountingWork:
    executor: CountingExecutor

    async def check(self) -> None:
        if self.executor.stops:
            raise RunStopError(self.executor.stops)

    async def work(self, batch: Batch) -> None:
        tasks = [task for task in batch.lease.tasks if task != self.executor.forgotten]
        self.executor.forgotten = None
        self.executor.done += tasks
        assert await batch.renew() == frozenset(batch.lease.tasks)
        await batch.ack([TaskResult(task, TaskState.DONE, seconds=0.5) for task in tasks])

    async def finished(self) -> None:
        self.executor.events.append("run finished")

    async def close(self) -> None:
        self.executor.events.append("run closed")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield Ledger(database)
    database.close()


def worker(ledger: Ledger, kinds: dict[RunKind, CountingExecutor], *, alone: bool = False) -> RunWorker:
    return RunWorker(ledger, kinds, "host:1:x", size=4, alone=alone)


def with_worker(made: Callable[[], RunWorker], use: Callable[[RunWorker], Awaitable[None]]) -> None:
    async def main() -> None:
        it = made()
        try:
            await use(it)
        finally:
            await it.close()

    asyncio.run(main())


def test_a_run_of_another_kind_from_its_beginning_to_its_end(ledger: Ledger, tmp_path: Path) -> None:
    run, executor = ledger.create(TRAIN, range(1, 11)), CountingExecutor(forgotten=3)

    async def use(it: RunWorker) -> None:
        assert it.suits(run.id)
        assert await it.work(run.id)
        progress = ledger.progress(run.id)
        assert (progress.counts[TaskState.DONE], progress.left, progress.workers) == (3, 7, 0)
        assert run_json(ledger.get(run.id), progress)["kind"] == "train"
        while await it.work(run.id):
            pass

    with_worker(lambda: worker(ledger, {RunKind.TRAIN: executor}), use)
    assert sorted(executor.done) == list(range(1, 11))
    assert ledger.get(run.id).state is RunState.FINISHED
    assert {record.task: record.attempts for record in ledger.records(run.id)}[3] == 1, "given back, not used up"
    assert ledger.progress(run.id).rate is not None
    assert executor.events == ["open train", "run finished", "run closed", "executor closed"]
    check(Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}"), run.id)


def test_a_worker_leaves_runs_alone_whose_kind_it_cannot_do(ledger: Ledger) -> None:
    predicting, training = ledger.create(SPEC, [1]), ledger.create(TRAIN, [1])
    executor = CountingExecutor()

    async def use(it: RunWorker) -> None:
        assert not it.suits(predicting.id)
        assert not await it.work(predicting.id)
        queue = LocalQueue(it.work, ledger, every=0.01, kinds=it.kinds)
        queue.start()
        async with asyncio.timeout(30):
            while ledger.get(training.id).state is not RunState.FINISHED:
                await asyncio.sleep(0.01)
        await it.close()
        await queue.aclose()

    with_worker(lambda: worker(ledger, {RunKind.TRAIN: executor}, alone=True), use)
    assert executor.done == [1]
    (record,) = ledger.records(predicting.id)
    assert (record.state, record.attempts) == (TaskState.PENDING, 0)
    assert ledger.get(predicting.id).state is RunState.ACTIVE


@pytest.mark.parametrize(
    ("executor", "alone", "state", "why"),
    [
        (CountingExecutor(why="no accelerator here"), False, RunState.ACTIVE, ""),
        (CountingExecutor(why="no accelerator here"), True, RunState.STOPPED, "no accelerator here"),
        (CountingExecutor(stops="too few annotations"), False, RunState.STOPPED, "too few annotations"),
    ],
)
def test_what_an_executor_refuses_is_left_or_stopped_with_the_reason(
    ledger: Ledger, executor: CountingExecutor, alone: bool, state: RunState, why: str
) -> None:
    run = ledger.create(TRAIN, [1])

    async def use(it: RunWorker) -> None:
        assert it.suits(run.id) is (executor.why == "")
        assert not await it.work(run.id)

    with_worker(lambda: worker(ledger, {RunKind.TRAIN: executor}, alone=alone), use)
    ended = ledger.get(run.id)
    assert (ended.state, ended.why, executor.done) == (state, why, [])
