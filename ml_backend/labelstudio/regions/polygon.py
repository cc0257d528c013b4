"""Masks to polygons within a pixel and IoU budget, and back.

A polygon runs along pixel edges (corner coordinates), so that with a budget of 0 it holds exactly the mask's pixels.
Which pixels a polygon covers is decided by their centres, with the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from int_model.core.types import Floats, Mask
from int_model.masks.rings import bridge, outlines, rasterise, signed_area, simplify

Holes = Literal["bridge", "drop", "brush"]
_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class PolygonOptions:
    """How masks become polygons.

    Attributes:
        epsilon: largest distance in pixels between the outline and its simplification; 0 keeps every pixel.
        min_iou: ``epsilon`` is halved, in the end to 0, until each part keeps this IoU with its mask (the part after
            ``min_area`` and ``holes`` were applied).
        min_area: parts and holes of fewer pixels are dropped (a mask's largest part always stays).
        max_points: most points of a polygon, 0 for any number; it outranks ``min_iou``.
        holes: a polygon cannot hold one. ``bridge`` cuts to it along a line without width, so that it stays a hole;
            ``drop`` fills it; ``brush`` asks the caller to emit the part as a brush region (bridged where none may be).
    """

    epsilon: float = 1.0
    min_iou: float = 0.95
    min_area: int = 16
    max_points: int = 0
    holes: Holes = "bridge"

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1000.0:
            raise ValueError(f"epsilon is a number of pixels from 0 to 1000, not {self.epsilon}")
        if not 0.0 <= self.min_iou <= 1.0:
            raise ValueError(f"min_iou lies in [0, 1], not {self.min_iou}")
        if self.min_area < 0:
            raise ValueError(f"min_area is a number of pixels, not {self.min_area}")
        if self.max_points != 0 and self.max_points < 3:
            raise ValueError(f"max_points is at least 3, or 0 for no limit, not {self.max_points}")


def without_specks(mask: Mask, min_area: int) -> Mask:
    """The mask without its parts (8-connected) of fewer than ``min_area`` pixels; its largest part always stays."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= min_area
    keep[1 + int(areas[1:].argmax())] = True
    keep[0] = False
    return np.asarray(keep[labels])


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One connected part of a mask.

    Attributes:
        points: ``float64 [P >= 3, 2]`` (x, y) in percent of width and height, 0..100, open ring; holes are bridged.
        has_holes: whether ``mask`` has holes.
        shape: its pixels in its bounding box, whose corner (x, y) is ``origin``; ``size`` is the image's (H, W).
    """

    points: Floats
    has_holes: bool
    shape: Mask
    origin: tuple[int, int]
    size: tuple[int, int]

    @property
    def mask(self) -> Mask:
        """The part's own pixels ``bool [H, W]``, holes cut out (filled where the policy drops them)."""
        mask = np.zeros(self.size, dtype=np.bool_)
        (x, y), (height, width) = self.origin, self.shape.shape
        mask[y : y + height, x : x + width] = self.shape
        return mask


def mask_to_parts(mask: Mask, options: PolygonOptions | None = None) -> list[Part]:
    """The mask's parts (8-connected), the largest first; an empty mask has none.

    ``mask`` is ``bool [H, W]``.
    """
    chosen = options or PolygonOptions()
    height, width = mask.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda i: (-int(stats[i, cv2.CC_STAT_AREA]), i))
    parts = []
    for rank, index in enumerate(order):
        if rank > 0 and stats[index, cv2.CC_STAT_AREA] < chosen.min_area:
            break
        x, y, w, h = (int(v) for v in stats[index, :4])
        parts.append(_part(labels[y : y + h, x : x + w] == index, (x, y), (height, width), chosen))
    return parts


def points_to_mask(points: Sequence[Sequence[float]] | Floats, height: int, width: int) -> Mask:
    """The pixels ``bool [height, width]`` whose centres lie in the polygon (percent coordinates, even-odd rule).

    Raises:
        ValueError: fewer than 3 points, or points that are not finite pairs.
    """
    try:
        ring = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon's points are pairs of numbers") from None
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError("a polygon has at least 3 points, each [x, y]")
    if not np.isfinite(ring).all():
        raise ValueError("a polygon's coordinates are finite numbers")
    return rasterise([ring * (width / 100.0, height / 100.0)], height, width)


def _part(shape: Mask, origin: tuple[int, int], size: tuple[int, int], options: PolygonOptions) -> Part:
    """The part whose pixels in its bounding box at ``origin`` (x, y) are ``shape``."""
    height, width = shape.shape
    exact = [ring for ring in outlines(shape) if _keep(ring, options)]
    wanted = rasterise(exact, height, width)
    frame = _Frame(origin, size)
    points = _within_budget(exact, wanted, frame, options)
    if options.max_points and len(points) > options.max_points:
        points = frame.percent(_at_most(exact, options.max_points, options.epsilon))
    return Part(points=points, has_holes=len(exact) > 1, shape=wanted, origin=origin, size=size)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a part's bounding box lies in its image."""

    origin: tuple[int, int]
    size: tuple[int, int]

    @property
    def _scale(self) -> Floats:
        return np.array([self.size[1] / 100.0, self.size[0] / 100.0])

    def percent(self, ring: Floats) -> Floats:
        percent = np.clip((ring + self.origin) / self._scale, 0.0, 100.0)
        return np.round(percent, _DECIMALS).astype(np.float64)

    def pixels(self, points: Floats) -> Floats:
        return points * self._scale - self.origin


def _within_budget(exact: list[Floats], wanted: Mask, frame: _Frame, options: PolygonOptions) -> Floats:
    """Percent points of the coarsest simplification within the budgets; judged as it will be read, after rounding."""
    epsilon = options.epsilon
    while epsilon > 0.0:
        points = frame.percent(bridge(simplify(exact, epsilon)))
        got = rasterise([frame.pixels(points)], *wanted.shape)
        if np.count_nonzero(got & wanted) >= options.min_iou * np.count_nonzero(got | wanted):
            return points
        epsilon = epsilon / 2.0 if epsilon > 0.3 else 0.0
    return frame.percent(bridge(exact))


def _at_most(exact: list[Floats], max_points: int, epsilon: float) -> Floats:
    """A ring of at most ``max_points``: ever coarser, then without the holes, in the end a box or half of it."""
    for rings in (exact, exact[:1]):
        reach = float(np.ptp(exact[0], axis=0).max())
        tolerance = max(epsilon, 0.5)
        while tolerance <= reach:
            joined = bridge(simplify(rings, tolerance))
            if len(joined) <= max_points:
                return joined
            tolerance *= 1.3
    (x1, y1), (x2, y2) = exact[0].min(axis=0), exact[0].max(axis=0)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])[: max(3, min(4, max_points))]


def _keep(ring: Floats, options: PolygonOptions) -> bool:
    area = signed_area(ring)
    return area > 0 or (options.holes != "drop" and -area >= options.min_area)
