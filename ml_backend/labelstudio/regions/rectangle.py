"""Label Studio's rectangle format: the corner and size in percent, turned about the corner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from int_model.core.types import Box, Floats, Mask
from int_model.masks.rings import rasterise

_DECIMALS = 3


def encode_rectangle(box: Box, height: int, width: int) -> dict[str, float]:
    """``x``, ``y``, ``width``, ``height`` in percent and ``rotation`` 0 of a box in pixels, clipped to the image.

    Raises:
        ValueError: the box lies outside the image.
    """
    inside = box.clip(height, width)
    if inside is None:
        raise ValueError("the box lies outside the image")
    x, y = round(inside.x1 * 100.0 / width, _DECIMALS), round(inside.y1 * 100.0 / height, _DECIMALS)
    right, bottom = round(inside.x2 * 100.0 / width, _DECIMALS), round(inside.y2 * 100.0 / height, _DECIMALS)
    return {
        "x": x,
        "y": y,
        "width": round(right - x, _DECIMALS),
        "height": round(bottom - y, _DECIMALS),
        "rotation": 0,
    }


def decode_rectangle(value: Mapping[str, Any], height: int, width: int) -> Mask:
    """The pixels ``bool [height, width]`` whose centres lie in the rectangle; ``rotation`` in degrees, clockwise.

    Raises:
        ValueError: a coordinate is missing or not a finite number.
    """
    return rasterise([rectangle_corners(value, height, width)], height, width)


def rectangle_corners(value: Mapping[str, Any], height: int, width: int) -> Floats:
    """The four corners ``float64 [4, 2]`` (x, y) in pixels, in turn. Errors as `decode_rectangle`."""
    x, y, w, h, angle = turned_numbers(value, "rectangle", ("x", "y", "width", "height"))
    corner = np.array([x * width, y * height]) / 100.0
    across = np.array([math.cos(angle), math.sin(angle)]) * (w * width / 100.0)
    down = np.array([-math.sin(angle), math.cos(angle)]) * (h * height / 100.0)
    return np.stack([corner, corner + across, corner + across + down, corner + down])


def turned_numbers(value: Mapping[str, Any], shape: str, names: Sequence[str]) -> list[float]:
    """The numbers of those names, and last the angle in radians.

    Raises:
        ValueError: one is missing or not a finite number.
    """
    try:
        numbers = [*(float(value[name]) for name in names), math.radians(float(value.get("rotation") or 0.0))]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"the numbers of a {shape} are {', '.join(names)}; one is missing") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"the coordinates of a {shape} are finite numbers")
    return numbers
