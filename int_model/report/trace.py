"""A ``Trace`` as plain data for JSON: finite numbers only, masks as run lengths, no pixels of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Candidate, Detection, IterationTrace, Patch, Trace
from int_model.masks.rle import plain_run_lengths


def trace_to_dict(trace: Trace) -> dict[str, Any]:
    """Everything of the trace but images, safe for ``json.dumps(..., allow_nan=False)``.

    Probabilities, scores and maps are rounded to 6 digits; a number that is not finite becomes None. ``iterations``
    count from 1, and so does ``final_iteration``.
    """
    return {
        "task": trace.task,
        "strategy": trace.strategy,
        "size": None if trace.size is None else list(trace.size),
        "patches": [_patch(patch) for patch in trace.patches],
        "candidates": [_candidate(candidate) for candidate in trace.candidates],
        "names": list(trace.names),
        "iterations": [_iteration(iteration) for iteration in trace.iterations],
        "final_iteration": trace.final_iteration,
        "calls": dict(trace.calls),
        "seconds": {role: _number(value) for role, value in trace.seconds.items()},
        "notes": list(trace.notes),
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _numbers(values: NDArray[np.floating]) -> list[Any]:
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [_number(float(value)) for value in values]


def _box(box: Box | None) -> list[float | None] | None:
    return None if box is None else [_number(value) for value in box.as_tuple()]


def _patch(patch: Patch) -> dict[str, Any]:
    return {"index": patch.index, "scale": patch.scale, "box": _box(patch.box)}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "patch": candidate.patch,
        "name": candidate.name,
        "environment": candidate.environment,
        "caption": candidate.caption,
        "box": _box(candidate.box),
        "answers": list(candidate.answers),
    }


def _detection(detection: Detection) -> dict[str, Any]:
    return {"box": _box(detection.box), "score": _number(detection.score), "phrase": detection.phrase}


def _iteration(step: IterationTrace) -> dict[str, Any]:
    return {
        "index": step.index,
        "inpaint_mode": step.inpaint_mode,
        "inpaint_mask": plain_run_lengths(step.inpaint_mask),
        "inpainted_anew": len(step.inpainted) > 0,
        "p_original": _numbers(step.p_original),
        "p_inpainted": _numbers(step.p_inpainted),
        "contrast": _numbers(step.contrast),
        "patch_names": list(step.patch_names),
        "log_scores": _numbers(step.log_scores),
        "normalised": _numbers(step.normalised),
        "winner_patch": step.winner_patch,
        "winner_name": step.winner_name,
        "background": step.background,
        "boxes": [_detection(detection) for detection in step.boxes],
        "box_source": step.box_source,
        "points": _numbers(step.points),
        "point_labels": [int(label) for label in step.point_labels],
        "similarity": None if step.similarity is None else _numbers(step.similarity),
        "mask_scores": _numbers(step.mask_scores),
        "predicted_iou": _numbers(step.predicted_iou),
        "selected": [bool(keep) for keep in step.selected],
        "instance_masks": [plain_run_lengths(mask) for mask in step.instance_masks],
        "mask": plain_run_lengths(step.mask),
        "distance": _number(step.distance),
    }
