"""Value types of the method: frozen, and checked when they are made.

Conventions used everywhere in this package:

* an *image* is ``uint8 [H, W, 3]``, RGB, upright (EXIF already applied);
* a *mask* is ``bool [H, W]``; a *soft mask* is ``float32 [H, W]`` in ``[0, 1]``;
* coordinates are pixels of the full image, x to the right, y down, boxes half-open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
SoftMask = NDArray[np.float32]
Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, stage)`` after each stage of a micro-batch, from the thread that segments."""


def check_image(image: Image) -> None:
    """Raise ``ValueError`` unless ``image`` is a non-empty ``uint8 [H, W, 3]`` array."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is a uint8 array of shape [H, W, 3], not {_describe(image)}")
    if image.shape[0] == 0 or image.shape[1] == 0:
        raise ValueError("an image has at least one pixel")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box ``[x1, x2) x [y1, y2)`` in pixels. Raises ``ValueError`` if empty or not finite."""

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in self.as_tuple()):
            raise ValueError(f"box coordinates must be finite: {self.as_tuple()}")
        if self.x1 >= self.x2 or self.y1 >= self.y2:
            raise ValueError(f"a box needs x1 < x2 and y1 < y2: {self.as_tuple()}")

    @classmethod
    def whole(cls, height: int, width: int) -> Box:
        """The box of a whole image."""
        return cls(0.0, 0.0, float(width), float(height))

    @classmethod
    def of_mask(cls, mask: Mask) -> Box | None:
        """The tight box of a mask, or None if the mask is empty."""
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            return None
        return cls(float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return self.width * self.height

    def as_tuple(self) -> tuple[float, float, float, float]:
        """``(x1, y1, x2, y2)``."""
        return (self.x1, self.y1, self.x2, self.y2)

    def shift(self, dx: float, dy: float) -> Box:
        """The box moved by ``(dx, dy)`` pixels."""
        return Box(self.x1 + dx, self.y1 + dy, self.x2 + dx, self.y2 + dy)

    def scale(self, sx: float, sy: float) -> Box:
        """The box with its coordinates multiplied by ``sx`` and ``sy`` (both > 0)."""
        return Box(self.x1 * sx, self.y1 * sy, self.x2 * sx, self.y2 * sy)

    def enlarge(self, fraction: float) -> Box:
        """The box grown on every side by ``fraction`` of its width and height."""
        dx, dy = fraction * self.width, fraction * self.height
        return Box(self.x1 - dx, self.y1 - dy, self.x2 + dx, self.y2 + dy)

    def intersect(self, other: Box) -> Box | None:
        """The common part, or None if there is none."""
        x1, y1 = max(self.x1, other.x1), max(self.y1, other.y1)
        x2, y2 = min(self.x2, other.x2), min(self.y2, other.y2)
        return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

    def clip(self, height: int, width: int) -> Box | None:
        """The part inside an image of that size, or None."""
        return self.intersect(Box.whole(height, width))

    def iou(self, other: Box) -> float:
        """Intersection over union, in ``[0, 1]``."""
        common = self.intersect(other)
        if common is None:
            return 0.0
        return common.area / (self.area + other.area - common.area)

    def contains(self, x: float, y: float) -> bool:
        """Whether the point lies inside (half-open)."""
        return self.x1 <= x < self.x2 and self.y1 <= y < self.y2

    def to_mask(self, height: int, width: int) -> Mask:
        """The pixels that the box touches, as a mask ``bool [height, width]``."""
        mask = np.zeros((height, width), dtype=np.bool_)
        y1, y2 = max(0, math.floor(self.y1)), max(0, math.ceil(self.y2))
        x1, x2 = max(0, math.floor(self.x1)), max(0, math.ceil(self.x2))
        mask[y1:y2, x1:x2] = True
        return mask


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangular view of the image: ``scale`` 1 whole, 2 a half, 4 a quarter. Its box has whole-number corners."""

    index: int
    scale: int
    box: Box

    def __post_init__(self) -> None:
        if any(v != int(v) or v < 0 for v in self.box.as_tuple()):
            raise ValueError(f"a patch has whole, non-negative corners: {self.box.as_tuple()}")

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices that cut the patch out of the image."""
        x1, y1, x2, y2 = (int(v) for v in self.box.as_tuple())
        return slice(y1, y2), slice(x1, x2)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.box.height), int(self.box.width)

    def crop(self, array: NDArray[Any]) -> NDArray[Any]:
        """The patch's part of an image or mask (a view)."""
        return array[self.slices]

    def to_image(self, box: Box) -> Box:
        """A box in patch pixels, in image pixels."""
        return box.shift(self.box.x1, self.box.y1)

    def from_image(self, box: Box) -> Box | None:
        """A box in image pixels, in patch pixels and clipped to the patch; None if outside."""
        inside = box.intersect(self.box)
        return None if inside is None else inside.shift(-self.box.x1, -self.box.y1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the VLM said about one patch: a name, the environment, perhaps a box (image pixels), and the raw answers."""

    patch: int
    name: str
    environment: str
    caption: str = ""
    box: Box | None = None
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a candidate has a name; leave out patches for which the VLM gave none")


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected box (image pixels) with its score in ``[0, 1]``."""

    box: Box
    score: float
    phrase: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a detection's score lies in [0, 1], not {self.score}")


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object: its mask, name, score in ``[0, 1]`` and tight box. Raises ``ValueError`` on an empty mask."""

    mask: Mask
    label: str
    score: float
    box: Box

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 2:
            raise ValueError(f"an instance's mask is bool [H, W], not {_describe(self.mask)}")
        if not self.mask.any():
            raise ValueError("an instance has at least one pixel")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"an instance's score lies in [0, 1], not {self.score}")

    @classmethod
    def of_mask(cls, mask: Mask, label: str, score: float) -> Instance:
        """An instance whose box is the mask's tight box."""
        box = Box.of_mask(mask)
        if box is None:
            raise ValueError("an instance has at least one pixel")
        return cls(mask=mask, label=label, score=score, box=box)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True, eq=False)
class IterationTrace:
    """What happened in one iteration (``index`` counts from 1). K patches, U candidate names, N boxes, P points.

    Attributes:
        inpaint_mode: ``per_patch_box``, ``union_box_crop``, ``mask_crop``, or ``none`` (module PSNM off).
        inpaint_mask: ``bool [H, W]``: every pixel removed in at least one patch.
        inpainted: the K patches with the region removed (X'), or () if this iteration reused the last ones.
        p_original: ``float64 [K, U]`` probability of each name under the original patch. In the vocabulary domain
            only the column of the patch's own answer is filled, with the token that changed most.
        p_inpainted: ``float64 [K, U]`` the same under the inpainted patch.
        contrast: ``float64 [K]`` D of each patch (paper eq. 4), before the floor.
        patch_names: the K names y_k that reached it (eq. 5).
        log_scores: running log score, ``[K]`` keyed by patch or ``[U]`` keyed by name (eq. 8).
        normalised: D^norm of the same shape (eq. 7), for reporting.
        winner_patch: index k*.
        winner_name: the instance prompt A_i^u (eq. 6).
        background: the winning patch's environment name.
        boxes: detections after selection; ``box_source`` says which rung of the fall-back ladder gave them:
            ``detector``, ``detector_low``, ``task_prompt``, ``vlm_box`` or ``whole_image``.
        points: ``float64 [P, 2]`` (x, y) and ``point_labels`` ``int64 [P]`` 1 positive, 0 negative.
        similarity: ``float32 [h, w]`` Spatial CLIP map in [0, 1], or None.
        mask_scores: ``float64 [N]`` CLIP scores; ``selected``: ``bool [N]``.
        instance_masks: ``bool [H, W]`` for each of the N boxes.
        soft_mask: fused S_i; ``mask``: binary M_i.
        distance: squared L2 distance per pixel of S_i to the mean of all iterations (eq. 14).
        predicted_iou: ``float64 [N]``, the segmenter's own estimate for each mask.
        instance_contrast: ``float64 [N]`` in [0, 1], how much less likely the name is without each mask, relative to
            the largest drop; None where it was not asked (``instances.contrast``).
    """

    index: int
    inpaint_mode: str
    inpaint_mask: Mask
    inpainted: tuple[Image, ...]
    p_original: Floats
    p_inpainted: Floats
    contrast: Floats
    patch_names: tuple[str, ...]
    log_scores: Floats
    normalised: Floats
    winner_patch: int
    winner_name: str
    background: str
    boxes: tuple[Detection, ...]
    box_source: str
    points: Floats
    point_labels: NDArray[np.int64]
    similarity: SoftMask | None
    mask_scores: Floats
    selected: NDArray[np.bool_]
    instance_masks: tuple[Mask, ...]
    soft_mask: SoftMask
    mask: Mask
    distance: float = math.nan
    predicted_iou: Floats = field(default_factory=lambda: np.zeros(0))
    instance_contrast: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything needed to explain a segmentation.

    ``calls`` counts model passes per image by role (``vlm_generate``, ``vlm_score``, ``inpaint``, ``detect``,
    ``segmenter_encode``, ``segmenter_decode``, ``clip_image``, ``clip_text``, ``clip_spatial``; a text counts once
    however many templates it is averaged over); ``seconds`` the time of the whole micro-batch by role.
    ``names`` are the U candidates in the order of the columns of ``p_original`` (an iteration before the last name
    was found has fewer columns). ``size`` is the (height, width) to which all coordinates and masks of this trace
    refer; None, or the image's own size unless the image was too large and was worked on at a smaller one.
    ``witnesses``: what a strategy that chooses between ways went by, each in ``[0, 1]``; ``confidence`` sums them up.
    """

    task: str
    strategy: str
    patches: tuple[Patch, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    names: tuple[str, ...] = ()
    iterations: tuple[IterationTrace, ...] = ()
    final_iteration: int | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    witnesses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The result for one image and one task prompt.

    No instances means "looked, found nothing"; ``reason`` then says why.
    ``score`` in ``[0, 1]`` is how far a person may trust it.
    ``whole`` is what the method itself calls its mask, ``bool [H, W]``; None where that is the union of the instances.
    The instances are a view of it: what is in several proposals is one object, so their union may be smaller.
    """

    size: tuple[int, int]
    task: str
    instances: tuple[Instance, ...]
    score: float
    trace: Trace
    name: str | None = None
    soft_mask: SoftMask | None = None
    reason: str = ""
    whole: Mask | None = None

    def __post_init__(self) -> None:
        if self.whole is not None and (self.whole.dtype != np.bool_ or self.whole.shape != self.size):
            raise ValueError(f"the whole mask is bool {list(self.size)}, not {_describe(self.whole)}")
        for instance in self.instances:
            if instance.mask.shape != self.size:
                raise ValueError(f"instance mask {instance.mask.shape} does not fit the image {self.size}")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a segmentation's score lies in [0, 1], not {self.score}")
        if not self.instances and not self.reason:
            raise ValueError("a segmentation without instances states its reason")

    @property
    def mask(self) -> Mask:
        """All sought pixels, ``bool [H, W]``: the method's own mask, else the union of all instances."""
        if self.whole is not None:
            return self.whole
        return union(self.size, [instance.mask for instance in self.instances])


def union(size: tuple[int, int], masks: Sequence[Mask]) -> Mask:
    """The union of masks of one size; all False if there are none."""
    out = np.zeros(size, dtype=np.bool_)
    for mask in masks:
        out |= mask
    return out
