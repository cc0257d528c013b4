"""The port between a worker, which leases tasks of runs, and the executors that do tasks of one kind of run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ml_backend.runs.calls import LedgerCalls
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import Lease, Run, RunSpec, TaskResult

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RunSession:
    """What an executor needs to know of the worker that it does a run for.

    Attributes:
        run: the run as it was when the worker came to it.
        over: whether the run is no longer active, or the process is told to stop.
        sleep: waits so many seconds, or less if the process is told to stop.
        stopping: set when the process is told to stop.
        alone: whether no other worker could do what this one cannot.
    """

    run: Run
    over: Callable[[], Awaitable[bool]]
    sleep: Callable[[float], Awaitable[None]]
    stopping: asyncio.Event
    alone: bool


class Batch:
    """Leased tasks of a run. Tasks that were not acknowledged go back to the ledger when the executor returns.

    Attributes:
        lease: the tasks; kept alive by the worker.
        acked: tasks whose results the ledger was given.
    """

    def __init__(self, lease: Lease, ledger: Ledger, calls: LedgerCalls) -> None:
        self.lease = lease
        self.acked: set[int] = set()
        self._ledger = ledger
        self._calls = calls

    async def renew(self) -> frozenset[int]:
        """Extend the lease now; the tasks that are still held under it."""
        return await self._calls.call(self._ledger.renew, self.lease)

    async def ack(self, results: Sequence[TaskResult]) -> frozenset[int]:
        """Write results into the ledger; the tasks that were still held. Others have taken over the rest."""
        accepted = await self._calls.call(self._ledger.finish, self.lease, results)
        for result in results:
            if result.task not in accepted:
                _log.info("task %d was taken over before it was finished here", result.task)
        self.acked |= {result.task for result in results}
        return accepted


class RunWork(Protocol):
    """One run in this process, for all its leases. Lives in the worker's event loop.

    ``check`` and ``work`` may raise ``RunStopError`` (the run cannot go on), ``WorkEndedError`` (waiting is of no use)
    and ``LabelStudioError`` (refused for good).
    """

    async def check(self) -> None:
        """Called before tasks are leased."""
        ...

    async def work(self, batch: Batch) -> None:
        """Do the leased tasks and acknowledge them."""
        ...

    async def finished(self) -> None:
        """Called after `work` that did the run's last task."""
        ...

    async def close(self) -> None:
        """Stop; what waits raises ``CancelledError``."""
        ...


class Executor(Protocol):
    """Does runs of one kind."""

    def unfit(self, spec: RunSpec) -> str:
        """Why this process cannot do such a run, and what to do; or "". Blocking; from any thread."""
        ...

    def open(self, session: RunSession) -> RunWork:
        """Begin with a run that `unfit` has nothing against."""
        ...

    def close(self) -> None:
        """Release what the runs shared; they are closed."""
        ...
