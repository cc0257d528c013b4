from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
