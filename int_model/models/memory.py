"""What accelerators there are, and their memory: ``python -m int_model.models.memory`` prints it as JSON."""

from __future__ import annotations

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


def _ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(accelerators()))
