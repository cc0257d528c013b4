"""Blocking calls made from an event loop: to Label Studio for as long as it is away, to the ledger for a while."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ml_backend.backoff import Backoff
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.errors import WorkEndedError
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_LOG_AGAIN = 60.0
_LEDGER_SECONDS = 15.0
T = TypeVar("T")


class LabelStudioCalls:
    """Calls of Label Studio that are repeated while they fail with a transient error.

    Args:
        threads: where blocking calls are made.
        ended: whether to give up; asked before every new attempt.
        sleep: waits so many seconds, or less if the process is told to stop.
        clock: seconds that never go back; for tests.
        backoff: makes the delays between the attempts of one call.
    """

    def __init__(
        self,
        threads: Executor,
        ended: Callable[[], Awaitable[bool]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        clock: Callable[[], float] = time.monotonic,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self.backoff = backoff
        self._threads = threads
        self._ended = ended
        self._sleep = sleep
        self._clock = clock
        self._away_since: float | None = None
        self._log_at = 0.0
        self._log_pauses = Backoff(_LOG_AGAIN, math.inf, draw=lambda: 1.0)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the blocking function returns.

        Raises:
            LabelStudioError: refused for good.
            WorkEndedError: it was no use to wait.
        """
        backoff = self.backoff()
        while True:
            try:
                result = await self.once(function, *args)
            except LabelStudioError as error:
                if not error.transient:
                    raise
                await self.wait(error, backoff)
            else:
                self.reset()
                return result

    async def once(self, function: Callable[..., T], *args: Any) -> T:
        """The same without waiting: fails as the function does."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args))

    async def wait(self, error: LabelStudioError, backoff: Backoff) -> None:
        """Log what is wrong, once and then at growing intervals, and wait; Label Studio's ``Retry-After`` goes first.

        Raises:
            WorkEndedError: it is no use.
        """
        now = self._clock()
        if self._away_since is None:
            self._away_since, self._log_at = now, now + self._log_pauses.delay()
            _log.warning("%s; waiting for it", error)
        elif now >= self._log_at:
            self._log_at = now + self._log_pauses.delay()
            _log.warning("still waiting for Label Studio, for %.0f s now: %s", now - self._away_since, error)
        if await self._ended():
            raise WorkEndedError
        await self._sleep(backoff.delay(error.retry_after))
        if await self._ended():
            raise WorkEndedError

    def reset(self) -> None:
        """Label Studio has answered."""
        if self._away_since is not None:
            _log.warning("Label Studio is back after %.0f s", self._clock() - self._away_since)
            self._away_since = None
            self._log_pauses.reset()


class LedgerCalls:
    """Calls of the ledger in threads of their own. They wait for a database that is away, and say so once.

    Args:
        ended: whether to give up soon, as the process is told to stop.
    """

    def __init__(self, ended: Callable[[], bool] = lambda: False) -> None:
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="runs-ledger")
        self._ended = ended
        self._away_since: float | None = None

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns; repeated while it raises ``StoreError``.

        For as long as it takes where the error is transient; else, and once the process is told to stop, for a quarter
        of a minute.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            stop=self._give_up,
            wait=Backoff(0.5, 4.0),
            before_sleep=self._say_once,
            reraise=True,
        )
        found: T = await retrying(self.once, function, *args)
        if self._away_since is not None:
            _log.warning("the database is back after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
        return found

    def _give_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        waits = isinstance(error, StoreError) and error.transient and not self._ended()
        return not waits and (state.seconds_since_start or 0.0) >= _LEDGER_SECONDS

    def _say_once(self, state: RetryCallState) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            _log.warning("%s; waiting for it", state.outcome.exception() if state.outcome else "")

    async def once(self, function: Callable[..., T], *args: Any) -> T:
        """The same, once."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def close(self) -> None:
        """Wait for the calls under way."""
        await asyncio.to_thread(self._threads.shutdown)
