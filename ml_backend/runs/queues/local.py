"""The queue without a server: runs are worked on in this very process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from ml_backend.backoff import Backoff
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.owners import process_lives, this_host
from ml_backend.runs.types import RunKind
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_TICKETS = 3  # one of them may be a training's for minutes
_TIDY_EVERY = 10

AsyncWork = Callable[[str], Awaitable[bool]]
"""Does one micro-batch of the run of that id; whether more may be left in it. `RunWorker.work` is one."""


class LocalQueue:
    """`RunQueue` in an event loop. Several tickets are used at a time, so that downloads overlap the models.

    A reconciler looks into the ledger every few seconds for runs with work that `wake` was not called for: begun
    before a restart, or by another process over the same database.

    Args:
        work: what a ticket is used for.
        ledger: where unfinished runs are found.
        tickets: used at the same time; runs take turns.
        every: seconds between looks into the ledger.
        kinds: of the runs that ``work`` can do.
        only: the ids of the runs that this process cares for; None for all.
    """

    def __init__(
        self,
        work: AsyncWork,
        ledger: Ledger,
        *,
        tickets: int = _TICKETS,
        every: float = 3.0,
        kinds: Collection[RunKind] = tuple(RunKind),
        only: frozenset[str] | None = None,
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._tickets = tickets
        self._every = every
        self._kinds = kinds
        self._only = only
        self._runs: dict[str, bool] = {}  # in the order of their turns; whether it was woken since its turn began
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reconciler")
        self._trouble = ""

    def start(self) -> None:
        """Begin to use tickets; to be called in the event loop of the `RunWorker`."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._use_tickets()) for _ in range(self._tickets)]
        self._tasks.append(self._loop.create_task(self._reconcile()))

    def wake(self, run_id: str) -> None:
        """See `RunQueue.wake`; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, run_id)

    def close(self) -> None:
        """Use no more tickets; what is at work goes on until the `RunWorker` is closed. In the loop's thread."""
        for task in self._tasks[self._tickets :]:
            task.cancel()
        self._runs.clear()
        self._only = frozenset()

    async def aclose(self) -> None:
        """`close`, and wait for what is at work; close the `RunWorker` first."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    def _wake(self, run_id: str) -> None:
        if self._only is None or run_id in self._only:
            self._runs[run_id] = True
            self._news.set()

    async def _use_tickets(self) -> None:
        backoff = Backoff(5.0, 30.0)
        while True:
            await self._news.wait()
            if not self._runs:
                self._news.clear()
                continue
            run_id = next(iter(self._runs))
            self._runs.pop(run_id)
            self._runs[run_id] = False  # now the last in the row
            more = False
            try:
                more = await self._work(run_id)
                backoff.reset()
            except StoreError as error:
                self._say_once(error)
                await asyncio.sleep(backoff.delay())
            except LedgerError as error:
                _log.warning("run %s: %s", run_id, error)
                await asyncio.sleep(backoff.delay())
            except Exception:  # noqa: BLE001 - the loop must outlive whatever one run meets
                # The ledger still has the tasks, and the reconciler comes back to them.
                _log.exception("a micro-batch of run %s failed unexpectedly", run_id)
                await asyncio.sleep(backoff.delay())
            if not more and self._runs.get(run_id) is False:
                del self._runs[run_id]

    async def _reconcile(self) -> None:
        loop = asyncio.get_running_loop()
        rounds = 0
        while True:
            try:
                if rounds % _TIDY_EVERY == 0:
                    host = this_host()
                    await loop.run_in_executor(self._thread, self._ledger.release_dead, host, process_lives)
                for run in await loop.run_in_executor(self._thread, self._ledger.unfinished, self._kinds):
                    self._wake(run.id)
                self._trouble = ""
            except StoreError as error:
                self._say_once(error)
            rounds += 1
            await asyncio.sleep(self._every)

    def _say_once(self, error: StoreError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("%s", error)
