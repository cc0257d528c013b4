"""Multi-scale patches (paper, module HCG)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from int_model.core.types import Box, Patch

_Corners = tuple[int, int, int, int]


def make_patches(
    height: int, width: int, scales: Sequence[int] = (1, 2, 4), quarters: Literal["grid", "strips"] = "grid"
) -> tuple[Patch, ...]:
    """Cut an image of that size: scale 1 whole; 2 left, right, top and bottom half; 4 quarters.

    Patches that are empty or equal to an earlier one (tiny images) are left out, so at least one and at most
    9 patches come back, numbered from 0. Raises ``ValueError`` for a scale other than 1, 2, 4.
    """
    patches: list[Patch] = []
    seen: set[_Corners] = set()
    for scale in scales:
        for corners in _cut(scale, height, width, quarters):
            x1, y1, x2, y2 = corners
            if x1 < x2 and y1 < y2 and corners not in seen:
                seen.add(corners)
                patches.append(Patch(len(patches), scale, Box(float(x1), float(y1), float(x2), float(y2))))
    return tuple(patches)


def _cut(scale: int, height: int, width: int, quarters: str) -> Iterable[_Corners]:
    cx, cy = width // 2, height // 2
    if scale == 1:
        return [(0, 0, width, height)]
    if scale == 2:
        return [(0, 0, cx, height), (cx, 0, width, height), (0, 0, width, cy), (0, cy, width, height)]
    if scale == 4:
        if quarters == "strips":
            return [quarter for half in _halves((0, 0, width, height)) for quarter in _halves(half)]
        return [(0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height)]
    raise ValueError(f"patch scales are 1, 2 and 4, not {scale}")


def _halves(corners: _Corners) -> Iterator[_Corners]:
    x1, y1, x2, y2 = corners
    if x2 - x1 >= y2 - y1:
        middle = (x1 + x2) // 2
        yield x1, y1, middle, y2
        yield middle, y1, x2, y2
    else:
        middle = (y1 + y2) // 2
        yield x1, y1, x2, middle
        yield x1, middle, x2, y2
