"""Masks as polygons within a budget of pixels, overlap and points: a ring for every connected part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from int_model.core.types import Floats, Mask
from int_model.masks.components import Component, components
from int_model.masks.rings import edge_middles, join_rings, outlines, rasterise, signed_area, simplify

Holes = Literal["bridge", "drop", "brush"]
Snap = Callable[[Floats], Floats]
"""Moves points ``[P, 2]`` in pixels of the image to the nearest ones that a format can say."""


class PolygonOptions(BaseModel):
    """How masks become polygons.

    ``epsilon`` is halved, in the end to 0, until each part keeps ``min_iou`` with its mask (the part after ``min_area``
    and ``holes`` were applied); ``max_points`` outranks it. A polygon cannot hold a hole: ``bridge`` cuts to it along a
    line without width, so that it stays one; ``drop`` fills it; ``brush`` asks the caller to emit the part as a brush
    region (bridged where none may be). The largest part of a mask is never dropped.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=(), extra="forbid")

    min_area: int = Field(16, ge=0, description="Parts and holes of fewer pixels are dropped.")
    epsilon: float = Field(1.0, ge=0.0, le=1000.0, description="Polygons: largest distance to the outline, in pixels.")
    min_iou: float = Field(0.95, ge=0.0, le=1.0, description="Polygons: smallest IoU of a polygon with its mask.")
    max_points: int = Field(0, ge=0, description="Polygons: most points, at least 3; 0 for any number.")
    holes: Holes = Field("bridge", description="Polygons: bridge, drop or brush.")

    @field_validator("max_points")
    @classmethod
    def _some_points(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError("a polygon has at least 3 points; 0 is no limit")
        return value


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
        """The coarsest simplification that keeps ``min_iou``: of the pixels' corners, or of the middles of their edges.

        Corners describe what is straight, as a box; middles what is curved, without steps. Fewer points tell which.
        """
        epsilon = options.epsilon
        while epsilon > 0.0:
            rings = [self._place(join_rings(simplify(rings, epsilon))) for rings in (self.exact, self._smooth)]
            fitting = [ring for ring in rings if self._iou(ring) >= options.min_iou]
            if fitting:
                return min(fitting, key=len)
            epsilon = epsilon / 2.0 if epsilon > 0.3 else 0.0
        return self._place(join_rings(self.exact))

    def within_points(self, max_points: int, epsilon: float) -> Floats:
        """The best of a few rings of at most ``max_points``: ever coarser ones, without the holes, and boxes."""
        return max((self._place(ring) for ring in self._coarse(max_points, epsilon)), key=self._iou)

    def _coarse(self, max_points: int, epsilon: float) -> Iterator[Floats]:
        outer = self.exact[0]
        reach = float(np.ptp(outer, axis=0).max())
        for rings in (self.exact, self._smooth, self.exact[:1], self._smooth[:1]):
            tolerance = max(epsilon, 0.5)
            while tolerance <= reach:
                joined = join_rings(simplify(rings, tolerance, keep=0.0))
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

    @property
    def _smooth(self) -> list[Floats]:
        return [edge_middles(ring) for ring in self.exact]

    def _place(self, ring: Floats) -> Floats:
        return self.snap(ring + self.corner)

    def _iou(self, ring: Floats) -> float:
        got = rasterise([ring - self.corner], *self.shape.shape)
        return float(np.count_nonzero(got & self.shape) / np.count_nonzero(got | self.shape))
