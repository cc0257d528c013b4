from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.models.adapters.bounded import BoundedCache
from int_model.models.device import choose_device, choose_dtype, in_batches


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_collection() -> Iterator[None]:
    """Collecting garbage of a whole test session after each simulated failure takes longer than everything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("int_model.models.device.release_memory", lambda: None)
        yield


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@given(st.lists(st.integers()), st.integers(1, 7))
@settings(deadline=None)
def test_batches_keep_order_and_size(items: list[int], limit: int) -> None:
    sizes: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        return [2 * item for item in batch]

    assert in_batches(items, limit, work) == [2 * item for item in items]
    assert all(size <= limit for size in sizes)
    assert len(sizes) == -(-len(items) // limit)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 16))
@settings(deadline=None)
def test_out_of_memory_halves_the_batch_until_it_fits(count: int, limit: int, room: int) -> None:
    tried: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("full")
        return list(batch)

    assert in_batches(range(count), limit, work) == list(range(count))
    failures = [size for size in tried if size > room]
    assert failures == tried[: len(failures)], "the smaller size is kept once found"


def test_one_item_that_does_not_fit_is_an_error() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        if 3 in batch:
            raise torch.OutOfMemoryError("full")
        return list(batch)

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(range(6), 4, work)


def test_a_wrong_number_of_results_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 items gave 1 results"):
        in_batches([1, 2, 3], 3, lambda _: [1])
    with pytest.raises(ValueError, match="at least one item"):
        in_batches([1], 0, lambda batch: list(batch))


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", CPU, torch.float32),
        ("auto", CUDA, torch.float16),
        ("float16", CPU, torch.float32),
        ("float16", CUDA, torch.float16),
        ("bfloat16", CPU, torch.bfloat16),
        ("float32", CUDA, torch.float32),
    ],
)
def test_dtype(name: str, device: torch.device, dtype: torch.dtype) -> None:
    assert choose_dtype(name, device) is dtype


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        choose_device("warp")
    with pytest.raises(ValueError, match="no device 'cuda:99'"):
        choose_device("cuda:99")
    with pytest.raises(ValueError, match="float32"):
        choose_dtype("float8", CPU)


def test_the_cache_drops_the_least_recently_used() -> None:
    cache: BoundedCache[str, str] = BoundedCache(5, len)
    cache.put("a", "12")
    cache.put("b", "123")
    assert cache.get("a") == "12"
    cache.put("c", "1")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("12", None, "1")
    cache.put("d", "123456")
    assert cache.get("d") is None
    assert len(cache) == 2, "a value too large for the cache displaces nothing"


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=6))), st.integers(0, 10))
@settings(deadline=None)
def test_the_cache_never_exceeds_its_limit(steps: list[tuple[int, str]], limit: int) -> None:
    cache: BoundedCache[int, str] = BoundedCache(limit, len)
    for key, value in steps:
        cache.put(key, value)
        kept = [cache.get(k) for k in range(6)]
        assert sum(len(v) for v in kept if v) <= limit
        assert cache.get(key) in (None, value)
