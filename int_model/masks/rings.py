"""Outlines of masks as rings of points in pixels, and back: exact, simplified, and joined to one ring.

Rings run along pixel edges (corner coordinates). Which pixels a ring covers is decided by their centres, even-odd.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import Delaunay

from int_model.core.types import Floats, Mask

_CROSSINGS_AT_ONCE = 1 << 17  # of edges with rows; they take some 100 bytes each, and hold the interpreter
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
    # pixel's own. (`repeat` would hold the interpreter meanwhile, a second for a large image.)
    height, width = shape.shape
    doubled = cv2.resize(shape.astype(np.uint8), (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
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


def join_rings(rings: Sequence[Floats]) -> Floats:
    """One ring from several, e.g. a part and its holes, or several parts, joined by short lines walked there and back.

    The lines lead from point to point and are the shortest ones that join all (a minimum spanning tree, whose edges are
    edges of the Delaunay triangulation). They have no width, so the even-odd area is that of all rings, and each ring
    keeps its direction. Raises ``ValueError`` without rings.
    """
    if not rings:
        raise ValueError("there is no ring to join")
    if len(rings) == 1:
        return rings[0]
    starts = np.cumsum([0, *map(len, rings)]).tolist()
    owner = np.repeat(np.arange(len(rings)), np.diff(starts))
    waiting: list[list[tuple[int, Floats]]] = [[] for _ in rings]
    for ring, parent, own, other in _shortest_links(np.concatenate(rings), owner):
        loop = _with_loops(rings[ring], waiting[ring], own - starts[ring])
        waiting[parent].append((other - starts[parent], loop))
    joined = _with_loops(rings[0], waiting[0], 0)[:-1]
    distinct: Floats = joined[(joined != np.roll(joined, 1, axis=0)).any(axis=1)]
    return distinct


def _shortest_links(points: Floats, owner: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """A spanning tree of the owners, leaves first: an owner, its parent, and the points of both that are linked."""
    spots, first, spot = np.unique(points, axis=0, return_index=True, return_inverse=True)
    corners = first[Delaunay(spots).simplices]
    shared = np.stack([first[spot.ravel()], np.arange(len(points))], axis=1)
    ends = np.concatenate([shared, corners[:, :2], corners[:, 1:], corners[:, ::2]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    ends = ends[owner[ends[:, 0]] != owner[ends[:, 1]]]
    ends = ends[np.argsort(np.linalg.norm(points[ends[:, 0]] - points[ends[:, 1]], axis=1), kind="stable")]
    pairs, ranks = np.unique(owner[ends], axis=0, return_index=True)
    # Ranks in place of lengths: a length of 0 would be no edge.
    graph = coo_array((ranks + 1.0, (pairs[:, 0], pairs[:, 1])), shape=(owner[-1] + 1,) * 2)
    order, parents = breadth_first_order(minimum_spanning_tree(graph), 0, directed=False)
    best = dict(zip(map(tuple, pairs.tolist()), ends[ranks].tolist(), strict=True))
    return [(ring, int(parents[ring]), *best[ring, int(parents[ring])]) for ring in order[:0:-1].tolist()]


def _with_loops(ring: Floats, loops: Sequence[tuple[int, Floats]], start: int) -> Floats:
    """The closed walk along a ring from its point ``start`` on, with loops inserted at their places."""
    pieces, at = [], 0
    walk = np.concatenate([np.roll(ring, -start, axis=0), ring[start : start + 1]])
    for place, loop in sorted(loops, key=lambda entry: (entry[0] - start) % len(ring)):
        until = (place - start) % len(ring)
        pieces += [walk[at : until + 1], loop]
        at = until
    return np.concatenate([*pieces, walk[at:]])
