"""Leases tasks of runs, has them done by the executor of the run's kind, and tells the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.calls import LedgerCalls
from ml_backend.runs.errors import LedgerError, RunStopError, WorkEndedError
from ml_backend.runs.executors import Batch, Executor, RunSession, RunWork
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.triage import hopeless
from ml_backend.runs.types import Lease, Run, RunKind, RunState
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_GRACE = 15.0
_KNOWN_RUNS = 64


class RunWorker:
    """Works on runs for one process, in one event loop. Close it before what its executors work with.

    Args:
        ledger: hands out tasks.
        executors: by the kinds of runs that this process can do.
        owner: ``host:pid:random`` (`owners.new_owner`).
        size: most tasks of one lease.
        alone: whether no other worker could do what this one cannot; a run that does not suit it is then stopped with
            the reason, rather than left to others.
        heartbeat: seconds between renewals of a lease; None for a quarter of the time that the ledger gives.
        sleep: waits; for tests.
    """

    def __init__(
        self,
        ledger: Ledger,
        executors: Mapping[RunKind, Executor],
        owner: str,
        *,
        size: int = 16,
        alone: bool = False,
        heartbeat: float | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.owner = owner
        self._ledger = ledger
        self._executors = dict(executors)
        self._size = size
        self._alone = alone
        self._heartbeat = ledger.lease_seconds / 4 if heartbeat is None else heartbeat
        self._sleep = sleep or self._sleep_or_stop
        self._known: dict[str, RunWork | str] = {}  # of a run that does not suit: why
        self._stopping = asyncio.Event()
        self._at_work = 0
        self._calls = LedgerCalls(self._stopping.is_set)

    @property
    def kinds(self) -> frozenset[RunKind]:
        """The kinds of runs that this worker can do."""
        return frozenset(self._executors)

    async def work(self, run_id: str) -> bool:
        """Use one ticket: lease tasks of the run and see them through. Whether more may be left for us.

        What goes wrong is logged, or in the ledger; tasks that could not be finished go back. Never raises but
        ``UnknownRunError`` and ``StoreError``, where the ledger cannot be used.
        """
        if self._stopping.is_set():
            return False
        self._at_work += 1
        try:
            run = await self._calls.call(self._ledger.get, run_id)
            if run.state is not RunState.ACTIVE or run.spec.kind not in self._executors:
                return False
            work = await self._open(run)
            if isinstance(work, str):
                raise RunStopError(work) if self._alone else WorkEndedError
            await work.check()
            lease = await self._calls.call(self._ledger.lease, run_id, self.owner, self._size)
            if lease is None:
                return False
            await self._use(work, lease)
            await self._stop_if_hopeless(run_id)
            if await self._state(run_id) is RunState.FINISHED:
                await work.finished()
            return not self._stopping.is_set()
        except WorkEndedError:
            return False
        except (RunStopError, LabelStudioError) as error:
            await self._stop_run(run_id, str(error))
            return False
        finally:
            self._at_work -= 1

    def suits(self, run_id: str) -> bool:
        """Whether this process can do the run: its kind, models and settings. Blocking; from any thread.

        Raises:
            UnknownRunError, StoreError: the ledger does not know the run, or cannot be used.
        """
        spec = self._ledger.get(run_id).spec
        return spec.kind in self._executors and not self._executors[spec.kind].unfit(spec)

    async def close(self) -> None:
        """Take no more; what is pushed is finished within seconds, all other tasks go back to the ledger."""
        self._stopping.set()
        until = time.monotonic() + _GRACE
        while self._at_work and time.monotonic() < until:
            await asyncio.sleep(0.02)
        while self._known:
            await self._forget(next(iter(self._known)))
        for executor in self._executors.values():
            executor.close()
        await self._calls.close()

    async def _open(self, run: Run) -> RunWork | str:
        executor = self._executors[run.spec.kind]
        if run.id not in self._known:
            why = await asyncio.to_thread(executor.unfit, run.spec)
            if why and run.id not in self._known:
                _log.warning("run %s is left to others: %s", run.id, why)
            while len(self._known) >= _KNOWN_RUNS:
                await self._forget(next(iter(self._known)))
            if run.id not in self._known:  # another ticket may have been quicker
                over = functools.partial(self._over, run.id)
                session = RunSession(run, over, self._sleep, self._stopping, self._alone)
                self._known[run.id] = why or executor.open(session)
        return self._known[run.id]

    async def _forget(self, run_id: str) -> None:
        work = self._known.pop(run_id)
        if not isinstance(work, str):
            await work.close()

    async def _use(self, work: RunWork, lease: Lease) -> None:
        batch = Batch(lease, self._ledger, self._calls)
        async with self._beating(lease):
            try:
                await work.work(batch)
            finally:
                if left := frozenset(lease.tasks) - batch.acked:
                    await self._give_back(lease, left)

    async def _state(self, run_id: str) -> RunState:
        return (await self._calls.call(self._ledger.get, run_id)).state

    async def _over(self, run_id: str) -> bool:
        return self._stopping.is_set() or await self._state(run_id) is not RunState.ACTIVE

    async def _stop_if_hopeless(self, run_id: str) -> None:
        if why := await self._calls.call(hopeless, self._ledger, run_id):
            raise RunStopError(why)

    async def _stop_run(self, run_id: str, why: str) -> None:
        _log.warning("run %s stops: %s", run_id, why)
        try:
            await self._calls.call(self._ledger.stop, run_id, why)
        except LedgerError as error:
            _log.info("%s", error)  # another process or a person has ended it meanwhile

    async def _give_back(self, lease: Lease, tasks: frozenset[int]) -> None:
        try:
            await self._calls.call(self._ledger.release, lease, tasks)
        except (StoreError, LedgerError) as error:
            _log.warning("tasks could not be given back, others take them when the lease expires: %s", error)

    @contextlib.asynccontextmanager
    async def _beating(self, lease: Lease) -> AsyncIterator[None]:
        """Keep the lease for as long as the block runs."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(self._heartbeat)
                try:
                    await self._calls.once(self._ledger.renew, lease)
                except StoreError as error:
                    _log.info("a lease could not be renewed: %s", error)  # whoever waits for the ledger says so

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()

    async def _sleep_or_stop(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
