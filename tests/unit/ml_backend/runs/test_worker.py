"""A worker over a real ledger, with executors that do what a test says: leases, renewals, stopping, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.errors import LedgerError, RunStopError, UnknownRunError, WorkEndedError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import Lease, RunKind, RunSpec, RunState, TaskResult, TaskState
from ml_backend.runs.worker import RunWorker
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC

Step = Callable[["Scripted", Batch], Awaitable[None]]


async def at_once(_: Scripted, batch: Batch) -> None:
    await batch.ack([TaskResult(task, TaskState.DONE) for task in batch.lease.tasks])


@dataclass
class Scripted:
    """An executor whose work is ``step``; it notes which runs it opened and closed."""

    step: Step = at_once
    why: str = ""
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    sessions: list[RunSession] = field(default_factory=list)
    is_closed: bool = False

    def unfit(self, spec: RunSpec) -> str:
        return self.why

    def open(self, session: RunSession) -> Any:
        self.sessions.append(session)
        self.opened.append(session.run.id)
        return ScriptedWork(self, session.run.id)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class ScriptedWork:
    executor: Scripted
    run: str

    async def check(self) -> None:
        return None

    async def work(self, batch: Batch) -> None:
        await self.executor.step(self.executor, batch)

    async def finished(self) -> None:
        self.executor.finished.append(self.run)

    async def close(self) -> None:
        self.executor.closed.append(self.run)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield Ledger(database, lease_seconds=4.0)
    database.close()


def play(ledger: Ledger, executor: Scripted, use: Callable[[RunWorker], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        worker = RunWorker(ledger, {RunKind.PREDICT: executor}, "host:1:x", **{"size": 4, **options})
        try:
            async with asyncio.timeout(30):
                await use(worker)
        finally:
            await worker.close()

    asyncio.run(main())


def counts(ledger: Ledger, run: str) -> dict[str, int]:
    return {state.value: number for state, number in ledger.progress(run).counts.items() if number}


async def when(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_a_ticket_says_whether_more_may_be_left(ledger: Ledger) -> None:
    run, executor = ledger.create(SPEC, range(1, 7)), Scripted()

    async def use(worker: RunWorker) -> None:
        assert worker.kinds == {RunKind.PREDICT}
        assert await worker.work(run.id)
        assert counts(ledger, run.id) == {"pending": 2, "done": 4}
        assert executor.finished == []
        assert await worker.work(run.id)
        assert executor.finished == [run.id]
        assert not await worker.work(run.id)

    play(ledger, executor, use)
    assert (executor.opened, executor.closed, executor.is_closed) == ([run.id], [run.id], True)


@pytest.mark.parametrize("state", ["cancelled", "of another kind"])
def test_nothing_is_opened_for_a_run_that_is_not_for_this_worker(ledger: Ledger, state: str) -> None:
    spec = replace(SPEC, kind=RunKind.TRAIN) if state == "of another kind" else SPEC
    run, executor = ledger.create(spec, [1]), Scripted()
    if state == "cancelled":
        ledger.cancel(run.id)

    async def use(worker: RunWorker) -> None:
        assert not await worker.work(run.id)
        assert worker.suits(run.id) is (state == "cancelled")

    play(ledger, executor, use)
    assert executor.opened == []


def test_an_unknown_run_is_an_error(ledger: Ledger) -> None:
    async def use(worker: RunWorker) -> None:
        with pytest.raises(UnknownRunError):
            await worker.work("99")
        with pytest.raises(UnknownRunError):
            worker.suits("99")

    play(ledger, Scripted(), use)


@pytest.mark.parametrize("error", [RunStopError("no such label"), LabelStudioError("the token is not accepted", 401)])
def test_what_ends_a_run_for_good_stops_it_with_the_reason(ledger: Ledger, error: Exception) -> None:
    async def refuse(_: Scripted, batch: Batch) -> None:
        await batch.ack([TaskResult(1, TaskState.DONE)])
        raise error

    run = ledger.create(SPEC, [1, 2, 3])

    async def use(worker: RunWorker) -> None:
        assert not await worker.work(run.id)

    play(ledger, Scripted(refuse), use)
    ended = ledger.get(run.id)
    assert (ended.state, ended.why) == (RunState.STOPPED, str(error))
    assert counts(ledger, run.id) == {"pending": 2, "done": 1}
    assert {record.attempts for record in ledger.records(run.id, TaskState.PENDING)} == {0}


def test_a_run_that_a_person_cancelled_meanwhile_stays_cancelled(ledger: Ledger) -> None:
    async def refuse(_: Scripted, batch: Batch) -> None:
        ledger.cancel(batch.lease.run)
        raise RunStopError("no such label")

    run = ledger.create(SPEC, [1])

    async def use(worker: RunWorker) -> None:
        assert not await worker.work(run.id)

    play(ledger, Scripted(refuse), use)
    assert (ledger.get(run.id).state, ledger.get(run.id).why) == (RunState.CANCELLED, "")


def test_work_that_ended_leaves_the_run_to_others(ledger: Ledger) -> None:
    async def leave(_: Scripted, batch: Batch) -> None:
        raise WorkEndedError

    run = ledger.create(SPEC, [1])

    async def use(worker: RunWorker) -> None:
        assert not await worker.work(run.id)

    play(ledger, Scripted(leave), use)
    assert ledger.get(run.id).state is RunState.ACTIVE
    assert counts(ledger, run.id) == {"pending": 1}


@pytest.mark.parametrize("heartbeat", [None, 0.02])
def test_a_lease_is_renewed_for_as_long_as_its_tasks_take(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, heartbeat: float | None
) -> None:
    renewed: list[str] = []
    renew = ledger.renew

    def noted(lease: Lease) -> frozenset[int]:
        renewed.append(lease.token)
        return renew(lease)

    ledger.lease_seconds = 0.4 if heartbeat is None else 1000.0
    monkeypatch.setattr(ledger, "renew", noted)

    async def slow(_: Scripted, batch: Batch) -> None:
        await when(lambda: len(renewed) >= 2)
        await at_once(_, batch)

    run = ledger.create(SPEC, [1])

    async def use(worker: RunWorker) -> None:
        await worker.work(run.id)
        seen = len(renewed)
        await asyncio.sleep(0.15)
        assert len(renewed) <= seen + 1, "nothing is renewed once it is done, but what was under way"

    play(ledger, Scripted(slow), use, heartbeat=heartbeat)


def test_a_worker_waits_for_what_is_at_work_when_it_closes_and_takes_no_more(ledger: Ledger) -> None:
    run, begun = ledger.create(SPEC, range(1, 9)), asyncio.Event()

    async def until_told(executor: Scripted, batch: Batch) -> None:
        begun.set()
        session = executor.sessions[-1]
        await session.sleep(20.0)  # ends when the process is told to stop
        assert await session.over()
        await asyncio.sleep(0.05)
        await batch.ack([TaskResult(1, TaskState.DONE)])

    executor = Scripted(until_told)

    async def use(worker: RunWorker) -> None:
        ticket = asyncio.create_task(worker.work(run.id))
        await begun.wait()
        assert not await executor.sessions[-1].over()
        await worker.close()
        assert ticket.done()
        assert not await ticket
        assert not await worker.work(run.id)

    play(ledger, executor, use)
    assert counts(ledger, run.id) == {"pending": 7, "done": 1}
    assert {record.attempts for record in ledger.records(run.id, TaskState.PENDING)} == {0}, "given back, not used up"
    assert executor.closed == [run.id]


def test_what_a_run_sleeps_takes_its_time_while_nobody_stops_the_process(ledger: Ledger) -> None:
    async def rest(executor: Scripted, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await executor.sessions[-1].sleep(0.1)
        assert loop.time() - began >= 0.09
        await at_once(executor, batch)

    run = ledger.create(SPEC, [1])

    async def use(worker: RunWorker) -> None:
        assert await worker.work(run.id)

    play(ledger, Scripted(rest), use)
    assert counts(ledger, run.id) == {"done": 1}


def test_of_many_runs_only_the_last_ones_are_kept_open(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.runs.worker._KNOWN_RUNS", 3)
    executor = Scripted()
    runs = [ledger.create(replace(SPEC, model_version=f"v{number}"), [1]).id for number in range(5)]

    async def use(worker: RunWorker) -> None:
        for run in runs:
            await worker.work(run)
        assert executor.closed == runs[:2]

    play(ledger, executor, use)
    assert executor.opened == runs
    assert sorted(executor.closed, key=int) == runs


def test_tasks_that_cannot_be_given_back_wait_for_their_lease_to_expire(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Scripted, batch: Batch) -> None:
        return None

    def refused(*_: object) -> frozenset[int]:
        raise LedgerError("no")

    monkeypatch.setattr(ledger, "release", refused)
    run = ledger.create(SPEC, [1, 2])

    async def use(worker: RunWorker) -> None:
        assert await worker.work(run.id)

    play(ledger, Scripted(nothing), use)
    assert counts(ledger, run.id) == {"leased": 2}
