"""Masks as polygons of formats without holes or parts: rings in pixels, simplified within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from int_model.rings import bridge, outlines, rasterise, simplify
from int_model.types import Floats, Mask

EPSILON = 1.0
MIN_IOU = 0.97


def part_rings(mask: Mask, epsilon: float = EPSILON, min_iou: float = MIN_IOU) -> list[Floats]:
    """A ring per connected part of a mask ``bool [H, W]``, the largest first: ``float64 [P, 2]`` (x, y) in pixels.

    Holes are joined to their part by a line without width. ``epsilon`` (pixels) is halved until a part keeps
    ``min_iou`` with its pixels; at 0 it is exact.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda i: (-int(stats[i, cv2.CC_STAT_AREA]), i))
    rings = []
    for index in order:
        x, y, w, h = (int(v) for v in stats[index, :4])
        ring = _ring(labels[y : y + h, x : x + w] == index, epsilon, min_iou)
        rings.append(ring + np.array([x, y], dtype=np.float64))
    return rings


def _ring(shape: Mask, epsilon: float, min_iou: float) -> Floats:
    exact = outlines(shape)
    while epsilon > 0.0:
        ring = bridge(simplify(exact, epsilon))
        got = rasterise([ring], *shape.shape)
        if np.count_nonzero(got & shape) >= min_iou * np.count_nonzero(got | shape):
            return ring
        epsilon = epsilon / 2.0 if epsilon > 0.3 else 0.0
    return bridge(exact)


def join_rings(rings: Sequence[Floats]) -> Floats:
    """One ring from several: each is joined to the nearest point of what is joined already, there and back.

    The joining lines have no width, so the even-odd area is that of all rings. Raises ``ValueError`` without rings.
    """
    if not rings:
        raise ValueError("there is no ring to join")
    joined = rings[0]
    waiting = list(rings[1:])
    while waiting:
        index, here, there = min(
            ((i, *_closest(joined, ring)) for i, ring in enumerate(waiting)), key=lambda found: found[3]
        )[:3]
        ring = waiting.pop(index)
        loop = np.concatenate([np.roll(ring, -there, axis=0), ring[there : there + 1]])
        joined = np.concatenate([joined[: here + 1], loop, joined[here:]])
    return joined


def _closest(a: Floats, b: Floats) -> tuple[int, int, float]:
    """The places of the nearest points of two rings, and their squared distance."""
    gaps = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    here, there = np.unravel_index(int(gaps.argmin()), gaps.shape)
    return int(here), int(there), float(gaps[here, there])
