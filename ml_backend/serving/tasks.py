"""Work beside a coroutine: in threads of its own, and in tasks that end with their owner."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Hashable
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
    """Tasks of one owner in one event loop; some have a key, under which they can be found while they run."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def get(self, key: Hashable) -> asyncio.Task[Any] | None:
        """The task that runs under that key."""
        return self._running.get(key)

    def start(self, work: Coroutine[Any, Any, T], key: Hashable = None) -> asyncio.Task[T]:
        """Run a coroutine. Its result need not be asked for."""
        task = asyncio.get_running_loop().create_task(work)
        own = task if key is None else key
        self._running[own] = task

        def ended(_: asyncio.Task[T]) -> None:
            del self._running[own]
            if not task.cancelled():
                task.exception()  # asked for, so that asyncio does not complain where all who waited have left

        task.add_done_callback(ended)
        return task

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
