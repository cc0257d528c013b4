"""A least-recently-used cache with a bounded total size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Keeps the values used last, as long as their sizes sum to at most ``limit``.

    Args:
        limit: the largest total size; 0 keeps nothing.
        size_of: the size of one value; 1 by default, so that ``limit`` counts entries.
    """

    def __init__(self, limit: int, size_of: Callable[[V], int] = lambda _: 1) -> None:
        self._limit = limit
        self._size_of = size_of
        self._total = 0
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value kept for ``key``, or None; counts as a use."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value and drop the least recently used ones beyond the limit; a larger value is not kept at all."""
        if key in self._entries:
            self._total -= self._size_of(self._entries.pop(key))
        size = self._size_of(value)
        if size > self._limit:
            return
        self._entries[key] = value
        self._total += size
        while self._total > self._limit:
            _, dropped = self._entries.popitem(last=False)
            self._total -= self._size_of(dropped)
