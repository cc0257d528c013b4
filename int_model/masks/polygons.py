"""Masks as polygons within a budget of pixels, overlap and points: a ring for every connected part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from int_model.core.types import Floats, Mask
from int_model.masks.components import Component, components
from int_model.masks.rings import bridge, outlines, rasterise, signed_area, simplify

Holes = Literal["bridge", "drop", "brush"]
Snap = Callable[[Floats], Floats]
"""Moves points ``[P, 2]`` in pixels of the image to the nearest ones that a format can say."""

_NEAREST_FIRST = 32


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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One connected part of a mask.

    Attributes:
        ring: ``float64 [P >= 3, 2]`` (x, y) in pixels of the image, open; holes are bridged.
        has_holes: whether ``mask`` has holes.
        component: its pixels, holes filled where the policy drops them.
        size: the image's (H, W).
    """

    ring: Floats
    has_holes: bool
    component: Component
    size: tuple[int, int]

    @property
    def mask(self) -> Mask:
        """The part's own pixels ``bool [H, W]``."""
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[self.component.slices] = self.component.shape
        return mask


def mask_to_parts(mask: Mask, options: PolygonOptions | None = None, snap: Snap | None = None) -> list[Part]:
    """The parts (8-connected) of a mask ``bool [H, W]``, the largest first; an empty mask has none.

    A polygon is judged as it will be read, after ``snap``.
    """
    chosen = options or PolygonOptions()
    parts: list[Part] = []
    for component in components(mask):
        if parts and component.area < chosen.min_area:
            break
        corner = np.array([component.x, component.y], dtype=np.float64)
        exact = [ring for ring in outlines(component.shape) if _is_kept(ring, chosen)]
        shape = rasterise(exact, *component.shape.shape)
        drawn = _Drawing(exact, shape, corner, snap or (lambda points: points))
        ring = drawn.within_budget(chosen)
        if chosen.max_points and len(ring) > chosen.max_points:
            ring = drawn.within_points(chosen.max_points, chosen.epsilon)
        whole = Component(shape, component.x, component.y, component.area)
        parts.append(Part(ring, len(exact) > 1, whole, (mask.shape[0], mask.shape[1])))
    return parts


def _is_kept(ring: Floats, options: PolygonOptions) -> bool:
    area = signed_area(ring)
    return area > 0 or (options.holes != "drop" and -area >= options.min_area)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """A part's exact rings and pixels in its bounding box, whose place in the image is ``corner``."""

    exact: list[Floats]
    shape: Mask
    corner: Floats
    snap: Snap

    def within_budget(self, options: PolygonOptions) -> Floats:
        """The coarsest simplification that keeps ``min_iou``."""
        epsilon = options.epsilon
        while epsilon > 0.0:
            ring = self._place(bridge(simplify(self.exact, epsilon)))
            if self._iou(ring) >= options.min_iou:
                return ring
            epsilon = epsilon / 2.0 if epsilon > 0.3 else 0.0
        return self._place(bridge(self.exact))

    def within_points(self, max_points: int, epsilon: float) -> Floats:
        """The best of a few rings of at most ``max_points``: ever coarser ones, without the holes, and boxes."""
        return max((self._place(ring) for ring in self._coarse(max_points, epsilon)), key=self._iou)

    def _coarse(self, max_points: int, epsilon: float) -> Iterator[Floats]:
        outer = self.exact[0]
        reach = float(np.ptp(outer, axis=0).max())
        for rings in (self.exact, self.exact[:1]):
            tolerance = max(epsilon, 0.5)
            while tolerance <= reach:
                joined = bridge(simplify(rings, tolerance, keep=0.0))
                if len(joined) <= max_points:
                    yield joined
                    break
                tolerance *= 1.3
        (x1, y1), (x2, y2) = outer.min(axis=0), outer.max(axis=0)
        box = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        if max_points >= 4:
            yield box
        else:
            yield from (np.delete(box, i, axis=0) for i in range(4))

    def _place(self, ring: Floats) -> Floats:
        return self.snap(ring + self.corner)

    def _iou(self, ring: Floats) -> float:
        got = rasterise([ring - self.corner], *self.shape.shape)
        return float(np.count_nonzero(got & self.shape) / np.count_nonzero(got | self.shape))


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
