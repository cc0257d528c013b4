"""Out of memory, for real: every role is given a batch that does not fit, and must come back whole.

The process is allowed only part of the memory that the batch took before (``set_per_process_memory_fraction``), so the
card's other users notice nothing; what the allocator raises is the ``OutOfMemoryError`` of a full card.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.real.meter import Meter
from benchmarks.real.script import ENVIRONMENT, NAMES, TASK
from int_model.core.types import Image
from int_model.models.memory import release_memory
from int_model.models.suite import ModelSuite


def provoke(suite: ModelSuite, meter: Meter, images: Sequence[Image], part: float = 0.4) -> list[dict[str, Any]]:
    """One row per role: peak memory without and with the limit, batches with it, largest difference of the results."""
    rows = []
    for name, call in _calls(suite, images).items():
        row: dict[str, Any] = {"stage": name, "items": len(images)}
        try:
            row |= _provoked(suite, meter, call, part)
        except torch.OutOfMemoryError as error:
            row["failed"] = str(error)[:160]
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        rows.append(row)
    return rows


def _provoked(suite: ModelSuite, meter: Meter, call: Callable[[], Any], part: float) -> dict[str, Any]:
    device = torch.device(suite.device)
    call()  # what is allocated once and kept
    _emptied(suite)
    idle = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    meter.reset()
    free = call()
    peak, plain = torch.cuda.max_memory_allocated(device), _batches(meter)
    _emptied(suite)
    limit = idle + part * (peak - idle)
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(limit / total)
    meter.reset()
    tight = call()
    return {
        "idle_gb": round(idle / 1e9, 2),
        "peak_gb": round(peak / 1e9, 2),
        "limit_gb": round(limit / 1e9, 2),
        "batches": plain,
        "batches_under_the_limit": _batches(meter),
        "results": len(tight),
        "largest_difference": _difference(free, tight),
    }


def _emptied(suite: ModelSuite) -> None:
    features = getattr(suite.vlm._inputs, "_features", None)  # type: ignore[attr-defined]
    if features is not None:
        features.clear()
    gc.collect()
    release_memory()


def _batches(meter: Meter) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for stage in meter.stages.values():
        for network, passes in stage.networks.items():
            found[network] = dict(passes.batches)
    return found


def _calls(suite: ModelSuite, images: Sequence[Image]) -> dict[str, Callable[[], Any]]:
    count = len(images)
    height, width = images[0].shape[:2]
    hole = np.zeros((height, width), dtype=np.bool_)
    hole[height // 4 : height // 2, width // 4 : width // 2] = True
    question = TASK.score_question(NAMES)
    return {
        "vlm.score": lambda: suite.vlm.score(images, [question] * count, [NAMES] * count),  # type: ignore[attr-defined]
        "vlm.dialogue": lambda: suite.vlm.dialogue(images, [TASK.dialogue] * count, (48, 16, 16, 96)),
        "inpainter.inpaint": lambda: suite.inpainter.inpaint(
            images, [hole] * count, [ENVIRONMENT] * count, [NAMES[0]] * count
        ),
        "detector.detect": lambda: [
            [(*found.box.as_tuple(), found.score) for found in row]
            for row in suite.detector.detect(images, [NAMES[0]] * count, box_threshold=0.35, text_threshold=0.25)
        ],
        "segmenter.encode": lambda: [e.features.float().cpu().numpy() for e in suite.segmenter.encode(images)],  # type: ignore[attr-defined]
        "text_image.embed_images": lambda: list(suite.text_image.embed_images(images)),
    }


def _difference(a: Sequence[Any], b: Sequence[Any]) -> float | str:
    """The largest absolute difference; for texts the number of different ones."""
    if a and isinstance(a[0], tuple) and isinstance(a[0][0], str):
        return f"{sum(x != y for x, y in zip(a, b, strict=True))} of {len(a)} dialogues differ"
    pairs = zip(a, b, strict=True)
    return float(max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max() for x, y in pairs))
