"""What a person pointed at, and the questions to the segmenter that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Floats, Mask
from int_model.masks.components import components
from int_model.models.protocols import MaskPrompt

_STROKE_POINTS = 6
_STROKE_PARTS = 8
_STROKE_MARGIN = 0.1  # a stroke covers its object roughly: its box grows by this part of its sides
_SAMPLES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ClickPrompt:
    """What a person pointed at, in pixels of the image.

    Attributes:
        points: ``float64 [P, 2]`` (x, y); ``labels`` ``int64 [P]``: 1 on the object, 0 beside it.
        boxes: each around one object.
        stroke: painted over the object, ``bool [H, W]``, or None.
        avoid: painted over what does not belong to it, or None.

    Raises ``ValueError`` where nothing shows the object, e.g. only points beside it.
    """

    points: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: tuple[Box, ...] = ()
    stroke: Mask | None = None
    avoid: Mask | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.labels), 2):
            raise ValueError(f"{len(self.labels)} labels need points of shape [{len(self.labels)}, 2]")
        painted = self.stroke is not None and bool(self.stroke.any())
        if not self.boxes and not painted and not (self.labels == 1).any():
            raise ValueError("nothing shows the object: click on it, draw a box around it, or paint over it")


def mask_prompts(prompt: ClickPrompt) -> list[MaskPrompt]:
    """The questions to the segmenter, one per object.

    Each box is an object, with the points inside it; a single box takes all points. Positive points outside all boxes,
    or without any, are one more object. A stroke is one object: points along it and its box.
    """
    points, labels = _with_painted(prompt.points, prompt.labels, prompt.avoid, 0)
    out: list[MaskPrompt] = []
    if prompt.stroke is not None and prompt.stroke.any():
        painted, signs = _with_painted(points, labels, prompt.stroke, 1)
        around = Box.of_mask(prompt.stroke)
        box = None if around is None else around.enlarge(_STROKE_MARGIN).clip(*prompt.stroke.shape)
        if not prompt.boxes:
            return [MaskPrompt(box, painted, signs)]
        out.append(MaskPrompt(box, *_with_painted(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), prompt.stroke, 1)))
    if len(prompt.boxes) == 1:
        return [MaskPrompt(prompt.boxes[0], points, labels), *out]
    inside = np.array([[box.contains(x, y) for x, y in points] for box in prompt.boxes], dtype=np.bool_)
    inside = inside.reshape(len(prompt.boxes), len(points))
    for box, own in zip(prompt.boxes, inside, strict=True):
        out.append(MaskPrompt(box, points[own], labels[own]))
    free = ~inside.any(axis=0)
    if (labels[free] == 1).any():
        out.append(MaskPrompt(None, points[free], labels[free]))
    return out


def stroke_points(stroke: Mask, count: int = _STROKE_POINTS) -> Floats:
    """At most ``count`` points ``float64 [P, 2]`` (x, y) well inside a stroke and far from one another."""
    box = Box.of_mask(stroke)
    if box is None:
        return np.zeros((0, 2))
    x0, y0, x1, y1 = (int(v) for v in box.as_tuple())
    crop = np.pad(stroke[y0:y1, x0:x1], 1)
    depth = cv2.distanceTransform(crop.astype(np.uint8), cv2.DIST_L2, 3)
    core = np.zeros_like(crop)
    for part in islice(components(crop), _STROKE_PARTS):
        inner = depth[part.slices]
        core[part.slices] |= part.shape & (inner >= 0.5 * float(inner[part.shape].max()))
    rows, columns = np.nonzero(core)
    step = max(1, len(rows) // _SAMPLES)
    spots = np.stack([columns[::step], rows[::step]], axis=1).astype(np.float64)
    first = int(depth[rows[::step], columns[::step]].argmax())
    chosen = [first]
    distance = np.linalg.norm(spots - spots[first], axis=1)
    while len(chosen) < min(count, len(spots)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(spots - spots[chosen[-1]], axis=1))
    return np.asarray(spots[chosen] + (x0 - 0.5, y0 - 0.5))  # the padding's pixel, and a pixel's centre


def _with_painted(
    points: Floats, labels: NDArray[np.int64], painted: Mask | None, sign: int
) -> tuple[Floats, NDArray[np.int64]]:
    if painted is None:
        return points, labels
    more = stroke_points(painted)
    return np.concatenate([points, more]), np.concatenate([labels, np.full(len(more), sign, dtype=np.int64)])
