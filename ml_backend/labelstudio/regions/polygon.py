"""Label Studio's polygon format: an open ring of points in percent of width and height.

A polygon runs along pixel edges (corner coordinates), so that with a budget of 0 it holds exactly the mask's pixels.
Which pixels a polygon covers is decided by their centres, with the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from int_model.core.types import Floats, Mask
from int_model.masks.polygons import Part, PolygonOptions, mask_to_parts
from int_model.masks.rings import rasterise

MAX_POINTS = 100_000
"""Most points of a polygon that is read: the exact outline of a mask of many megapixels has fewer."""

MAX_CROSSINGS = 32_000_000
"""Most rows that its edges cross in all; each is a step of work."""

_DECIMALS = 3


def encode_polygons(mask: Mask, options: PolygonOptions | None = None) -> list[tuple[list[list[float]], Part]]:
    """The points ``[x, y]`` in percent, 0 to 100, of each part of a mask ``bool [H, W]``, the largest first."""
    scale = np.array([mask.shape[1] / 100.0, mask.shape[0] / 100.0])

    def percent(points: Floats) -> Floats:
        rounded: Floats = np.round(np.clip(points / scale, 0.0, 100.0), _DECIMALS)
        return rounded

    parts = mask_to_parts(mask, options, lambda points: percent(points) * scale)
    return [(percent(part.ring).tolist(), part) for part in parts]


def decode_polygon(points: Sequence[Sequence[float]] | Floats, height: int, width: int) -> Mask:
    """The pixels ``bool [height, width]`` whose centres lie in the polygon (percent coordinates, even-odd rule).

    Raises:
        ValueError: fewer than 3 points or more than 100,000, points that are not finite pairs, or edges that cross too
            many rows.
    """
    try:
        count = len(points)
        ring = np.asarray(points if count <= MAX_POINTS else (), dtype=np.float64)  # so many would hold the interpreter
    except (TypeError, ValueError):
        raise ValueError("a polygon's points are pairs of numbers") from None
    if count > MAX_POINTS:
        raise ValueError(f"a polygon has at most {MAX_POINTS} points, not {count}; use a brush region instead")
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError("a polygon has at least 3 points, each [x, y]")
    rows = np.clip(ring[:, 1] * (height / 100.0), 0.0, height)
    if np.abs(np.diff(rows, append=rows[:1])).sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon's edges cross at most {MAX_CROSSINGS} rows of pixels; use a brush region instead")
    return rasterise([ring * (width / 100.0, height / 100.0)], height, width)
