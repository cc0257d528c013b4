"""Calls to Label Studio that wait, for as long as it takes, until it is back."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from ml_backend.labelstudio.client import LabelStudioError

_log = logging.getLogger(__name__)
_FIRST, _LONGEST = 1.0, 30.0
_SAY_AGAIN = 60.0
T = TypeVar("T")


class WorkEndedError(Exception):
    """There is no use in waiting any longer: the run is over, or the process is told to stop."""


class Patience:
    """Repeats what fails only for now.

    Args:
        threads: where blocking calls are made.
        ended: whether to give up waiting; asked before every new attempt.
        sleep: waits so many seconds, or less if the process is told to stop.
    """

    def __init__(
        self,
        threads: Executor,
        ended: Callable[[], Awaitable[bool]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._threads = threads
        self._ended = ended
        self._sleep = sleep
        self._since: float | None = None
        self._said = 0.0
        self._pause = 0.0

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the blocking function returns.

        Raises:
            LabelStudioError: refused for good.
            WorkEndedError: it was no use to wait.
        """
        delay = _FIRST
        while True:
            try:
                result = await self.once(function, *args)
            except LabelStudioError as error:
                if not error.transient:
                    raise
                await self.wait(error, delay)
                delay = min(2 * delay, _LONGEST)
            else:
                self.well()
                return result

    async def once(self, function: Callable[..., T], *args: Any) -> T:
        """The same without waiting: fails as the function does."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args))

    async def wait(self, error: LabelStudioError, delay: float) -> None:
        """Say what is wrong, once and then at growing intervals, and wait; Label Studio's own wish goes first.

        Raises:
            WorkEndedError: it is no use.
        """
        now = time.monotonic()
        if self._since is None:
            self._since, self._said, self._pause = now, now, _SAY_AGAIN
            _log.warning("%s; waiting for it", error)
        elif now - self._said >= self._pause:
            self._said, self._pause = now, 2 * self._pause
            _log.warning("still waiting for Label Studio, for %.0f s now: %s", now - self._since, error)
        if await self._ended():
            raise WorkEndedError
        await self._sleep(delay if error.retry_after is None else error.retry_after)
        if await self._ended():
            raise WorkEndedError

    def well(self) -> None:
        """Label Studio has answered."""
        if self._since is not None:
            _log.warning("Label Studio is back after %.0f s", time.monotonic() - self._since)
            self._since = None
