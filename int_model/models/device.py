"""Where models run, in which precision, and in how large batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from int_model.models.memory import release_memory

T = TypeVar("T")
R = TypeVar("R")

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the first CUDA card, else Apple's GPU, else the CPU.

    Raises ``ValueError`` for an unknown name or a device this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"'{name}' is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"this machine has no device '{name}'; set the device to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("this machine has no device 'mps'; set the device to auto or cpu")
    return device


def list_devices(names: str) -> list[str]:
    """The devices that ``names`` stands for: ``all`` CUDA cards (else what ``auto`` is), or names between commas.

    A name may come twice: two processes then share the device. Raises ``ValueError`` as `choose_device` does, and where
    no device is named.
    """
    if names.strip() == "all":
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{index}" for index in range(cards)] or [choose_device().type]
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ValueError("no device is named; use all, or names between commas: cuda:0,cuda:1")
    for name in found:
        choose_device(name)
    return found


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision to load weights in: ``auto`` is float16 on CUDA and float32 elsewhere.

    float16 becomes float32 off CUDA, where many half-precision operators are missing or slower. Raises ``ValueError``
    for an unknown name.
    """
    if name == "auto":
        name = "float16"
    if name not in _DTYPES:
        raise ValueError(f"'{name}' is not a dtype; use auto, {', '.join(_DTYPES)}")
    dtype = _DTYPES[name]
    return torch.float32 if dtype is torch.float16 and device.type != "cuda" else dtype


def in_batches(items: Sequence[T], limit: int, work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """``work`` on consecutive slices of at most ``limit`` items, the results joined in order.

    When the accelerator runs out of memory the slice is halved and tried again; the smaller size is kept for the rest
    of this call. A single item that does not fit raises ``torch.OutOfMemoryError``. Raises ``ValueError`` if ``limit``
    is below 1 or ``work`` does not return one result per item.
    """
    if limit < 1:
        raise ValueError(f"a batch holds at least one item, not {limit}")
    results: list[R] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + limit]
        try:
            done = work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            limit = len(batch) // 2
            done = None
        if done is None:
            # Only here, outside the handler, has the traceback let go of the tensors of the failed batch.
            release_memory()
            continue
        if len(done) != len(batch):
            raise ValueError(f"{len(batch)} items gave {len(done)} results")
        results.extend(done)
    return results
