"""Boxes and points to masks, their semantic scores, selection and fusion (paper, module SMG, eqs. 9-13).

Pure functions but for ``find_boxes``, which asks the detector. N boxes, P points; images and masks of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import DetectorConfig, PointPromptsConfig
from int_model.core.types import Box, Detection, Floats, Image, Mask, SoftMask, union
from int_model.masks.post_processing import select_boxes
from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt

VLM_BOX_SCORE = 0.5
WHOLE_IMAGE_SCORE = 0.2
"""Confidence of boxes that no detector scored: a vision-language model's, and the whole image (our choice)."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxQuery:
    """Find ``name`` in the image of that owner."""

    owner: int
    image: Image
    name: str


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Boxes and the rung of the ladder that gave them."""

    boxes: tuple[Detection, ...]
    source: str


def find_boxes(
    calls: ModelCalls, queries: Sequence[BoxQuery], task_name: str | None, config: DetectorConfig
) -> list[FoundBoxes | None]:
    """All instances of each query's name (eq. 9), one detector call per rung for all queries still open.

    Rungs: the name; the name at the low thresholds; the task prompt, if given. None where all of them find nothing.
    """
    found: list[FoundBoxes | None] = [None] * len(queries)
    high = (config.box_threshold, config.text_threshold)
    low = (config.low_box_threshold, config.low_text_threshold)
    for source, thresholds in (("detector", high), ("detector_low", low), ("task_prompt", high)):
        asked = source == "task_prompt"
        todo = [i for i, boxes in enumerate(found) if boxes is None and not (asked and queries[i].name == task_name)]
        if asked and task_name is None:
            break
        names = [task_name if asked and task_name else queries[i].name for i in todo]
        answers = calls.detect(
            [queries[i].owner for i in todo],
            [queries[i].image for i in todo],
            names,
            box_threshold=thresholds[0],
            text_threshold=thresholds[1],
        )
        for i, detections in zip(todo, answers, strict=True):
            boxes = select_boxes(detections, queries[i].image.shape[:2], config)
            if boxes:
                found[i] = FoundBoxes(boxes, source)
    return found


def fallback_boxes(vlm_box: Box | None, size: tuple[int, int]) -> FoundBoxes:
    """The last rungs: the VLM's own box, else the whole image (``size`` = height, width)."""
    if vlm_box is not None:
        return FoundBoxes((Detection(vlm_box, VLM_BOX_SCORE),), "vlm_box")
    return FoundBoxes((Detection(Box.whole(*size), WHOLE_IMAGE_SCORE),), "whole_image")


def mask_prompts(
    boxes: Sequence[Box], points: Floats, labels: NDArray[np.int64], config: PointPromptsConfig
) -> list[MaskPrompt]:
    """One prompt per box with the points that belong to it.

    ``in_box``: positives inside the box, negatives inside the box grown by ``negative_margin``; a positive of one
    object would be wrong for another. ``all`` gives every box every point, ``none`` no point.
    """
    prompts: list[MaskPrompt] = []
    for box in boxes:
        if config.points == "in_box":
            wide = box.enlarge(config.negative_margin)
            keep = np.array(
                [(box if label else wide).contains(x, y) for (x, y), label in zip(points, labels, strict=True)],
                dtype=np.bool_,
            )
        else:
            keep = np.full(len(labels), config.points == "all", dtype=np.bool_)
        prompts.append(MaskPrompt(box=box, points=points[keep], labels=labels[keep]))
    return prompts


def probabilities(logits: Sequence[NDArray[np.float32]]) -> list[SoftMask]:
    """Sigmoid of mask logits, each ``float32 [H, W]``; > 0.5 exactly where the logit is > 0."""
    return [np.asarray(1.0 / (1.0 + np.exp(-layer.clip(-30.0, 30.0))), dtype=np.float32) for layer in logits]


def masked(image: Image, mask: Mask) -> Image:
    """The image with black outside the mask: the masked region of eq. 11."""
    return np.where(mask[..., None], image, np.uint8(0))


def cut_out(image: Image, mask: Mask, margin: float = 0.1) -> Image:
    """The masked region alone: black outside the mask, cropped to its box grown by ``margin`` of its sides.

    The mask must not be empty.
    """
    tight = Box.of_mask(mask)
    if tight is None:
        raise ValueError("an empty mask has no surroundings")
    wide = tight.enlarge(margin)
    x1, y1 = max(0, int(wide.x1)), max(0, int(wide.y1))
    x2, y2 = min(mask.shape[1], round(wide.x2)), min(mask.shape[0], round(wide.y2))
    return np.ascontiguousarray(masked(image, mask)[y1:y2, x1:x2])


def semantic_scores(cosines: Floats, anchor: float | None) -> Floats:
    """Cosines of the masked regions with the name (eq. 11), ``[N]``, scaled to ``[0, 1]``.

    1 is the best mask; 0 is ``anchor``, the cosine of the image without all masks, or with ``anchor=None`` the worst
    mask. Where the masks are no better than the anchor the cosines cannot tell them apart, and all score 1; so does
    a single mask.
    """
    best = float(cosines.max())
    zero = float(cosines.min()) if anchor is None else anchor
    if len(cosines) == 1 or best - zero < 1e-6:
        return np.ones(len(cosines))
    return ((cosines - zero) / (best - zero)).clip(0.0, 1.0)


def softmax_scores(cosines: Floats, scale: float) -> Floats:
    """The ancestor's scale: softmax over the masks of ``scale`` times the cosines, then min-max, ``[N]``."""
    chances = np.exp(scale * (cosines - cosines.max()))
    return semantic_scores(chances / chances.sum(), None)


def select_masks(scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """The masks that reach the threshold, ``bool [N]``; the best one always does, none is privileged by its place."""
    return np.asarray(scores >= min(threshold, float(scores.max())), dtype=np.bool_)


def above_gap(scores: Floats) -> NDArray[np.bool_]:
    """The masks above the widest gap between neighbouring scores, 0 among them: ``bool [N]``; ties keep more.

    Scores that differ little from each other are all kept, however low the last one is; it adapts to each image.
    """
    ordered = np.append(np.sort(scores.clip(0.0))[::-1], 0.0)
    gaps = ordered[:-1] - ordered[1:]
    widest = int(np.flatnonzero(gaps >= gaps.max() - 1e-9)[-1])
    return np.asarray(scores >= ordered[widest], dtype=np.bool_)


def fuse(
    soft: Sequence[SoftMask],
    scores: Floats,
    selected: NDArray[np.bool_],
    size: tuple[int, int],
    rule: Literal["max", "wsum"] = "max",
) -> tuple[SoftMask, Mask]:
    """Eq. 12 over the selected masks: the soft map S_i and the binary mask M_i.

    ``max``: S = max_k s_k m_k. ``wsum``: the weighted sum, divided by its maximum. M is the union of the binary masks
    under both: thresholding a weighted sum of disjoint instances would delete the lighter ones.
    """
    chosen = [(layer, float(s)) for layer, s, keep in zip(soft, scores, selected, strict=True) if keep]
    fused = np.zeros(size, dtype=np.float32)
    for layer, score in chosen:
        weighted = np.float32(score) * layer
        fused = np.maximum(fused, weighted) if rule == "max" else fused + weighted
    if rule == "wsum" and fused.max() > 0:
        fused = fused / fused.max()
    return fused.astype(np.float32), union(size, [layer > 0.5 for layer, _ in chosen])


def reweight(original: Image, current: Image, soft: SoftMask, w: float, rule: Literal["paper", "ema", "none"]) -> Image:
    """Eq. 13, the image of the next iteration: w (X (.) S) + (1 - w) X, from X_i (``paper``) or X (``ema``), or X."""
    if rule == "none":
        return original
    base = (current if rule == "paper" else original).astype(np.float32)
    updated = base * (w * soft[..., None] + (1.0 - w))
    return np.rint(updated).clip(0, 255).astype(np.uint8)
