"""The original packages need torchvision, and PyPI's torchvision cannot load its C++ operators beside a CPU torch.

It then fails to import, since it registers what two of them do for tensors without values. Declared beforehand, though
not implemented, they let it be imported: resizing and normalising, which the packages use, need none of them.
"""

from __future__ import annotations

import importlib.util
import sys

_library: object = None


def declare() -> None:
    """Let torchvision be imported where it is installed without its operators; call this before anything imports it."""
    global _library
    if _library is not None or "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    import torch

    spec = importlib.util.find_spec("torchvision")
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    try:
        torch.ops.load_library(f"{folder}/_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library = library  # what is declared lasts as long as this object
