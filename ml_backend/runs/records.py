"""Calls of the ledger from an event loop; they outlast a database that is away for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ml_backend.storage.database import StoreError

_TRIES = 6
T = TypeVar("T")


class Records:
    """Makes blocking calls in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="runs-ledger")

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns; repeated for about a quarter of a minute while it raises ``StoreError``."""
        for attempt in range(_TRIES):
            try:
                return await self.once(function, *args)
            except StoreError:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)
        raise AssertionError("the loop returns or raises")

    async def once(self, function: Callable[..., T], *args: Any) -> T:
        """The same, once."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def close(self) -> None:
        """Wait for the calls under way."""
        await asyncio.to_thread(self._threads.shutdown)
