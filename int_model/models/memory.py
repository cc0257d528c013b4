"""Accelerators and their memory. ``python -m int_model.models.memory`` prints what there is as JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

_GB = 1e9


def accelerators() -> dict[str, Any]:
    """The machine's devices: ``cuda`` (name, ``total_gb``, ``free_gb`` of each card), ``mps``, ``ram_gb``; GB are 1e9.

    Imports torch, and opens a context on every card to ask for its free memory: not for a process that lives on.
    """
    import torch

    cards = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        cards.append({"name": name, "total_gb": total / _GB, "free_gb": free / _GB})
    return {"cuda": cards, "mps": torch.backends.mps.is_available(), "ram_gb": _ram() / _GB}


def release_memory() -> None:
    """Give back what nothing uses any more: Python's garbage, then the allocator's cache of the accelerator."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def accelerator_memory(device: str) -> dict[str, int]:
    """Bytes that this process has on a device: ``allocated`` by tensors, ``reserved`` by the allocator, ``peak``.

    ``peak`` is the most ever allocated, on CUDA only. {} for a CPU. ``device`` is the name of a device in use.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        return {
            "allocated": torch.cuda.memory_allocated(place),
            "reserved": torch.cuda.memory_reserved(place),
            "peak": torch.cuda.max_memory_allocated(place),
        }
    if place.type == "mps":
        return {"allocated": torch.mps.current_allocated_memory(), "reserved": torch.mps.driver_allocated_memory()}
    return {}


def accelerator_total(device: str) -> float | None:
    """A CUDA card's whole memory in GB; None for other devices. ``device`` is the name of a device in use."""
    import torch

    place = torch.device(device)
    return torch.cuda.mem_get_info(place)[1] / _GB if place.type == "cuda" else None


def _ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(accelerators()))
