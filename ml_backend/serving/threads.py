"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """A few threads of their own, so that nothing else can keep them busy.

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
