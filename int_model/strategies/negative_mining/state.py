"""What the loop knows about one image, stage by stage. Symbols as in the paper; K patches, N boxes, P points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.config import IntConfig
from int_model.core.types import Floats, Image, IterationTrace, Mask, Patch, SoftMask
from int_model.models.protocols import Embedding
from int_model.point_prompting.role import PointPrompts
from int_model.strategies.negative_mining.candidates import CandidateSet
from int_model.strategies.negative_mining.contrast import Choice, Contrast, normalised
from int_model.strategies.negative_mining.patches import make_patches
from int_model.strategies.negative_mining.semantic_masks import FoundBoxes

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """The patches without the candidate region: X'_k, the region in the image, and which patches it touches."""

    mode: str
    region: Mask
    patches: tuple[Image, ...]
    touched: NDArray[np.bool_]
    reused: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mined:
    """The instance prompt of this iteration and what led to it."""

    p_original: Floats
    p_inpainted: Floats
    change: Contrast
    running: Floats
    choice: Choice
    background: str


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The segmenter's N soft masks and predicted IoUs; ``key`` identifies the prompts that gave them."""

    key: tuple[object, ...]
    layers: tuple[SoftMask, ...]
    predicted_iou: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Scores and choice among the N masks, and what they make together: S_i and M_i."""

    scores: Floats
    selected: NDArray[np.bool_]
    soft: SoftMask
    mask: Mask


@dataclass(slots=True, eq=False)
class ImageState:
    """What is known about one image on its way through the loop.

    ``image`` is X and ``current`` X_i, both at working size; ``full_size`` is the size of the image as it came.
    ``names`` only ever grows at its end, so that a column of the probability tables keeps its meaning. ``outputs_*``
    are the VLM's outputs for the K patches, as they are and without the region. ``final`` is the index of the chosen
    iteration.
    """

    owner: int
    full_size: tuple[int, int]
    image: Image
    current: Image
    patches: tuple[Patch, ...]
    found: CandidateSet | None = None
    names: tuple[str, ...] = ()
    outputs_original: list[NDArray[np.floating]] | None = None
    outputs_inpainted: list[NDArray[np.floating]] | None = None
    removal: Removal | None = None
    mined: Mined | None = None
    boxes_by_name: dict[str, FoundBoxes | None] = field(default_factory=dict)
    boxes: FoundBoxes | None = None
    points: PointPrompts = field(default_factory=PointPrompts)
    embedding: Embedding | None = None
    decoded: Decoded | None = None
    fused: Fused | None = None
    iterations: list[IterationTrace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    final: int | None = None
    reason: str = ""
    stopped: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which this image is worked on."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def active(self) -> bool:
        """Whether the loop still goes on for this image."""
        return not self.reason and not self.stopped

    @property
    def own_names(self) -> list[str | None]:
        """What the VLM called the object in each of the K patches."""
        said = {c.patch: c.name for c in self.candidates.candidates}
        return [said.get(patch.index) for patch in self.patches]

    @property
    def candidates(self) -> CandidateSet:
        """What the dialogues gave."""
        return require(self.found)

    def record(self) -> IterationTrace:
        """This iteration, for the trace."""
        removal, mined, boxes = self.removal, require(self.mined), require(self.boxes)
        fused, decoded = require(self.fused), require(self.decoded)
        return IterationTrace(
            index=len(self.iterations) + 1,
            inpaint_mode=removal.mode if removal else "none",
            inpaint_mask=removal.region if removal else np.zeros(self.size, dtype=np.bool_),
            inpainted=removal.patches if removal and not removal.reused else (),
            p_original=mined.p_original,
            p_inpainted=mined.p_inpainted,
            contrast=mined.change.values,
            patch_names=mined.change.names,
            log_scores=mined.running,
            normalised=normalised(mined.running),
            winner_patch=mined.choice.patch,
            winner_name=mined.choice.name,
            background=mined.background,
            boxes=boxes.boxes,
            box_source=boxes.source,
            points=self.points.points,
            point_labels=self.points.labels,
            similarity=self.points.similarity,
            mask_scores=fused.scores,
            selected=fused.selected,
            instance_masks=tuple(layer > 0.5 for layer in decoded.layers),
            soft_mask=fused.soft,
            mask=fused.mask,
            predicted_iou=decoded.predicted_iou,
        )


def require(value: _T | None) -> _T:
    """The result of an earlier stage; raises ``RuntimeError`` if that stage has not run."""
    if value is None:
        raise RuntimeError("a stage of the loop ran before the stage that it builds on")
    return value


def start(owner: int, image: Image, config: IntConfig) -> ImageState:
    """The state of one image before the first stage: brought to working size and cut into patches."""
    work_image = shrink(image, config.limits.max_side)
    scales = config.patches.scales if config.switches.hcg else (1,)
    patches = make_patches(work_image.shape[0], work_image.shape[1], scales, config.patches.quarters)
    return ImageState(owner, (image.shape[0], image.shape[1]), work_image, work_image, patches)


def shrink(image: Image, max_side: int) -> Image:
    """The image, or a smaller copy of it if a side exceeds ``max_side``."""
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def enlarge(layer: Mask | SoftMask, size: tuple[int, int]) -> SoftMask:
    """A mask or soft mask brought to ``size`` (height, width), linearly interpolated, ``float32``."""
    wide = np.asarray(layer, dtype=np.float32)
    if layer.shape == size:
        return wide
    return np.asarray(cv2.resize(wide, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
