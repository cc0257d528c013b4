"""Masks as polygons of formats without holes or parts: rings in pixels, simplified within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree

from int_model.core.types import Floats, Mask
from int_model.masks.rings import bridge, outlines, rasterise, simplify

EPSILON = 1.0
MIN_IOU = 0.97
MIN_AREA = 4
_NEAREST_FIRST = 32


def part_rings(
    mask: Mask, epsilon: float = EPSILON, min_iou: float = MIN_IOU, min_area: int = MIN_AREA
) -> list[Floats]:
    """A ring per connected part of a mask ``bool [H, W]``, the largest first: ``float64 [P, 2]`` (x, y) in pixels.

    Holes are joined to their part by a line without width. ``epsilon`` (pixels) is halved until a part keeps
    ``min_iou`` with its pixels; at 0 it is exact. Parts of fewer than ``min_area`` pixels are dropped (the largest
    stays).
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda i: (-int(stats[i, cv2.CC_STAT_AREA]), i))
    rings = []
    for rank, index in enumerate(order):
        if rank and stats[index, cv2.CC_STAT_AREA] < min_area:
            break
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

    The joining lines have no width, so the even-odd area is that of all rings. Up to 32 rings are joined nearest
    first, more in their order. Raises ``ValueError`` without rings.
    """
    if not rings:
        raise ValueError("there is no ring to join")
    joined = rings[0]
    waiting = list(rings[1:])
    while waiting:
        tree = cKDTree(joined)
        reach = waiting if len(waiting) < _NEAREST_FIRST else waiting[:1]
        links = [_closest(tree, ring) for ring in reach]
        index = min(range(len(links)), key=lambda i: links[i][0])
        _, here, there = links[index]
        ring = waiting.pop(index)
        loop = np.concatenate([np.roll(ring, -there, axis=0), ring[there : there + 1]])
        joined = np.concatenate([joined[: here + 1], loop, joined[here:]])
    return joined


def _closest(tree: cKDTree, ring: Floats) -> tuple[float, int, int]:
    """The distance of a ring from the points of a tree, and the places of the two nearest points."""
    distances, places = tree.query(ring)
    there = int(distances.argmin())
    return float(distances[there]), int(places[there]), there
