"""The one bounded cache: least recently used entries go first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(LRUCache[K, V]):
    """A mapping whose values' sizes sum to at most ``maxsize``; a value larger than that is not kept at all.

    Reading an entry counts as a use, ``in`` does not. Not safe for several threads without a lock.

    Args:
        maxsize: the largest total size; 0 keeps nothing.
        size_of: the size of a value, e.g. in bytes; 1 by default, so that ``maxsize`` counts entries.
    """

    def __init__(self, maxsize: int, size_of: Callable[[V], int] | None = None) -> None:
        if maxsize < 0:
            raise ValueError(f"a cache's size is at least 0, not {maxsize}")
        super().__init__(maxsize, size_of)

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        if self.getsizeof(value) <= self.maxsize:
            super().__setitem__(key, value)
