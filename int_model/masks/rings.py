"""Outlines of masks as rings of points in pixels, and back: exact, simplified, and joined to one ring.

Rings run along pixel edges (corner coordinates). Which pixels a ring covers is decided by their centres, even-odd.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats, Mask

_CROSSINGS_AT_ONCE = 1 << 20  # of edges with rows; they take some 100 bytes each
_FARTHEST = 1e9
_TIE = 1e-7  # an edge through a pixel's centre, up to rounding, always counts as left of and above it


def rasterise(rings: Sequence[Floats], height: int, width: int) -> Mask:
    """Even-odd fill of rings ``float64 [P, 2]`` (x, y) in pixels: ``bool [height, width]``, by pixel centres.

    Raises:
        ValueError: a coordinate is not finite, or beyond a billion pixels.
    """
    toggles = np.zeros(height * (width + 1), dtype=np.uint8)
    for ring in rings:
        if not (np.abs(ring) <= _FARTHEST).all():
            raise ValueError("a polygon's coordinates are finite numbers, at most a billion pixels from the image")
        following = np.roll(ring, -1, axis=0)
        down = (ring[:, 1] <= following[:, 1])[:, None]
        # From top to bottom, so that a line walked there and back is computed alike and cancels to the last bit.
        start, end = np.where(down, ring, following), np.where(down, following, ring)
        first = np.clip(np.ceil(start[:, 1] - 0.5 - _TIE), 0, height).astype(np.int64)
        stop = np.clip(np.ceil(end[:, 1] - 0.5 - _TIE), 0, height).astype(np.int64)
        rows_per_edge = np.maximum(stop - first, 0)
        crossings = np.cumsum(rows_per_edge)
        cuts = np.searchsorted(crossings, np.arange(_CROSSINGS_AT_ONCE, int(crossings[-1]) + 1, _CROSSINGS_AT_ONCE))
        for edges in np.split(np.arange(len(ring)), np.unique(cuts)):
            rows = rows_per_edge[edges]
            edge = np.repeat(edges, rows)
            row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(rows) - rows, rows)
            slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
            x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
            column = np.clip(np.ceil(x - 0.5 - _TIE), 0, width).astype(np.int64)
            np.add.at(toggles, row * (width + 1) + column, np.uint8(1))
    parity = np.bitwise_xor.accumulate(toggles.reshape(height, width + 1)[:, :width], axis=1)
    return (parity & 1).astype(np.bool_)


def signed_area(ring: Floats) -> float:
    """Shoelace area of a ring ``[P, 2]``; positive if it runs clockwise on the screen (y down), as outer rings do."""
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def outlines(shape: Mask) -> list[Floats]:
    """The rectilinear outlines of an 8-connected part: outer ring first (clockwise, y down), then holes the other way.

    Coordinates are pixel corners ``float64 [P, 2]``, without points on straight lines. Where two pixels touch at a
    corner only, the ring passes through it twice.
    """
    # A contour runs through centres of pixels; of every pixel made two by two, the corner nearest to the outside is the
    # pixel's own.
    doubled = shape.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((np.roll(contour[::-1, 0, :], 1, axis=0) + 1) // 2) for contour in contours]
    return [rings[i] for i in np.argsort(tree[0, :, 3] >= 0, kind="stable")]


def _corners(points: NDArray[np.int32]) -> Floats:
    """The points of a closed rectilinear walk at which it turns."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    turns = ((points - np.roll(points, 1, axis=0)) != (np.roll(points, -1, axis=0) - points)).any(axis=1)
    corners: Floats = points[turns].astype(np.float64)
    return corners


def edge_middles(ring: Floats) -> Floats:
    """A rectilinear ring through the middles of its pixels' edges: a staircase becomes a straight line."""
    steps = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(steps).sum(axis=1).astype(np.int64)
    edge = np.repeat(np.arange(len(ring)), lengths)
    nth = np.arange(edge.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    middles: Floats = ring[edge] + (nth[:, None] + 0.5) * np.sign(steps)[edge]
    return middles


def simplify(rings: Sequence[Floats], epsilon: float, keep: float = 0.5) -> list[Floats]:
    """Douglas-Peucker on each ring of whole or half coordinates, the outer one first.

    A ring that would be left with less than the share ``keep`` of its area stays as it is, so no hole disappears; at 0
    holes that shrink to a line go.
    """
    out = []
    for index, ring in enumerate(rings):
        points = cv2.approxPolyDP((2.0 * ring).astype(np.int32)[:, None, :], 2.0 * epsilon, closed=True)[:, 0, :] / 2.0
        left = signed_area(points) / signed_area(ring)
        if left > 0.0 and left >= keep:
            out.append(points)
        elif keep > 0.0 or index == 0:
            out.append(ring)
    return out


def bridge(rings: Sequence[Floats]) -> Floats:
    """One ring from an outer ring and its holes, each joined by a line walked there and back (no width, no area).

    ``rings``: ``float64 [P, 2]`` each, the outer one first. From the left to the right, each hole's leftmost point is
    joined to what lies to its left: that is always joined already, and nothing is crossed.
    """
    joined = rings[0]
    for hole in sorted(rings[1:], key=lambda ring: float(ring[:, 0].min())):
        vertex = int(hole[:, 0].argmin())
        segment, foot = _left_of(hole[vertex], joined)
        loop = np.concatenate([np.roll(hole, -vertex, axis=0), hole[vertex : vertex + 1]])
        joined = np.concatenate([joined[: segment + 1], foot[None], loop, foot[None], joined[segment + 1 :]])
    return _without_repeats(joined)


def _left_of(point: Floats, ring: Floats) -> tuple[int, Floats]:
    """The first segment of the ring to the left of the point, and where the horizontal line meets it."""
    following = np.roll(ring, -1, axis=0)
    rise = following[:, 1] - ring[:, 1]
    flat = rise == 0
    t = np.clip((point[1] - ring[:, 1]) / np.where(flat, 1.0, rise), 0.0, 1.0)
    meet = ring[:, 0] + t * (following[:, 0] - ring[:, 0])
    level = (np.minimum(ring[:, 1], following[:, 1]) <= point[1]) & (
        point[1] <= np.maximum(ring[:, 1], following[:, 1])
    )
    meet = np.where(flat, np.maximum(ring[:, 0], following[:, 0]), meet)
    reachable = level & (meet <= point[0])
    if reachable.any():
        segment = int(np.argmax(np.where(reachable, meet, -np.inf)))
        return segment, np.array([meet[segment], point[1]])
    segment = int(((ring - point) ** 2).sum(axis=1).argmin())  # the hole sticks out after simplification
    return segment, ring[segment]


def _without_repeats(ring: Floats) -> Floats:
    """The ring without points that equal the one before."""
    keep = (ring != np.roll(ring, 1, axis=0)).any(axis=1)
    kept: Floats = ring[keep]
    return kept
