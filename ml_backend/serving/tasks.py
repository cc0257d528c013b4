"""Work beside a coroutine: in threads of its own, and in tasks that end with their owner."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """A few threads for blocking work, which nothing else can keep busy.

    Args:
        count: how many.
        name: what their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """What the blocking function returns. It goes on if the caller is cancelled meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args))

    async def close(self) -> None:
        """Wait for what is at work, and end the threads."""
        await asyncio.to_thread(self._pool.shutdown)


class Tasks:
    """Tasks of one owner in one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine. Nobody need ask for its result."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not complain where all who waited have left
