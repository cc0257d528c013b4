"""A ``Trace`` as plain data for JSON: finite numbers only, masks as run lengths, no pixels of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from int_model.core.types import Box, IterationTrace, Trace
from int_model.masks.rle import plain_run_lengths

_LEFT_OUT = {"inpainted", "soft_mask"}


def trace_to_dict(trace: Trace) -> dict[str, Any]:
    """Everything of the trace but images and soft masks, safe for ``json.dumps(..., allow_nan=False)``.

    Fields keep their names. Boxes are (x1, y1, x2, y2), masks COCO's uncompressed run lengths. Probabilities, scores
    and maps are rounded to 6 digits; a number that is not finite becomes None. ``iterations`` count from 1, and so does
    ``final_iteration``; instead of its inpainted patches an iteration has ``inpainted_anew``, whether it made any.
    """
    return _record(trace)


def _record(value: Any) -> dict[str, Any]:
    record = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.name not in _LEFT_OUT}
    if isinstance(value, IterationTrace):
        record["inpainted_anew"] = len(value.inpainted) > 0
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return plain_run_lengths(value) if value.dtype == np.bool_ and value.ndim == 2 else _plain(value.tolist())
    if isinstance(value, np.generic):  # numpy.float64 is a float as well
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Box):
        return _plain(value.as_tuple())
    if is_dataclass(value):
        return _record(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
