from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.core.caches import LruCache

STEPS = st.lists(st.tuples(st.sampled_from("pgd"), st.integers(0, 5), st.integers(0, 60)), max_size=60)


def test_the_least_recently_used_entry_goes_first() -> None:
    cache: LruCache[str, str] = LruCache(5, len)
    cache["a"] = "12"
    cache["b"] = "123"
    assert cache.get("a") == "12"
    cache["c"] = "1"
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("12", None, "1")
    cache["d"] = "123456"
    assert "d" not in cache
    assert len(cache) == 2, "a value too large for the cache displaces nothing"


def test_without_sizes_entries_are_counted() -> None:
    cache: LruCache[int, str] = LruCache(2)
    for key in range(4):
        cache[key] = "x"
    assert list(cache) == [2, 3]
    nothing: LruCache[int, str] = LruCache(0)
    nothing[1] = "x"
    assert nothing.get(1) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100), STEPS)
def test_the_cache_keeps_the_most_recent_within_its_size(limit: int, steps: list[tuple[str, int, int]]) -> None:
    cache: LruCache[int, int] = LruCache(limit, lambda size: size)
    model: list[tuple[int, int]] = []  # oldest first
    for action, key, size in steps:
        old = [entry for entry in model if entry[0] == key]
        model = [entry for entry in model if entry[0] != key]
        if action == "p":
            if size <= limit:
                model.append((key, size))
                while sum(kept for _, kept in model) > limit:
                    model.pop(0)
            cache[key] = size
        elif action == "g":
            assert (cache.get(key) is None) == (not old)
            model += old
        else:
            cache.pop(key, None)
        assert cache.currsize == sum(kept for _, kept in model) <= limit
        assert {kept for kept, _ in model} == set(cache)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        LruCache(-1)
