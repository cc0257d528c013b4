"""What is removed from the patches (paper eq. 3), and the paste-back of what is not: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from int_model.core.types import Box, Image, Mask, Patch, union


def grow(mask: Mask, radius: float) -> Mask:
    """The mask and every pixel closer to it than ``radius`` pixels; every radius costs the same."""
    if radius <= 0 or not mask.any():
        return mask.copy()
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(distance <= radius, dtype=np.bool_)


def diagonal(height: int, width: int) -> float:
    """Length of an image's diagonal in pixels."""
    return math.hypot(height, width)


def patch_masks(
    patches: Sequence[Patch],
    boxes: Sequence[Box | None],
    dilation: float,
    *,
    without_box: Literal["untouched", "others"] = "untouched",
    max_part: float = 1.0,
) -> list[Mask]:
    """What each patch loses in iteration 1, ``bool`` of the patch's size: its own box, grown.

    Args:
        patches: K of them.
        boxes: K, in image pixels; None where the answer held none.
        dilation: the growth in parts of the patch's diagonal.
        without_box: a patch without a box stays ``untouched``, or loses what the boxes of the ``others`` cover of it.
        max_part: the largest part of its pixels that a patch loses, see ``bounded``.
    """
    known = [box for box in boxes if box is not None]
    masks: list[Mask] = []
    for patch, own in zip(patches, boxes, strict=True):
        removed = [own] if own is not None else known if without_box == "others" else []
        inside = [patch.from_image(box) for box in removed]
        mask = union(patch.size, [box.to_mask(*patch.size) for box in inside if box is not None])
        masks.append(bounded(grow(mask, dilation * diagonal(*patch.size)), max_part))
    return masks


def bounded(mask: Mask, max_part: float) -> Mask:
    """The mask, or of a larger one the ``max_part * mask.size`` pixels that lie deepest inside it."""
    most = int(max_part * mask.size)
    if int(mask.sum()) <= most:
        return mask
    padded = np.pad(mask.astype(np.uint8), 1)  # beyond the patch is outside
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    inner = np.zeros(mask.size, dtype=np.bool_)
    inner[np.argsort(-depth, axis=None, kind="stable")[:most]] = True
    return np.asarray(inner.reshape(mask.shape))


def image_mask(size: tuple[int, int], boxes: Sequence[Box | None], dilation: float) -> Mask:
    """The union of all boxes in the whole image, grown by ``dilation`` times its diagonal."""
    mask = union(size, [box.to_mask(*size) for box in boxes if box is not None])
    return grow(mask, dilation * diagonal(*size))


def paste_back(original: Image, filled: Image, mask: Mask) -> Image:
    """``filled`` inside the mask, ``original`` elsewhere.

    Inpainters change every pixel a little, which alone would move the VLM's output; only the region may differ.
    """
    if filled.shape != original.shape or filled.dtype != np.uint8:
        raise RuntimeError(f"the inpainter gave {filled.dtype} {filled.shape} for an image {original.shape}")
    return np.where(mask[..., None], filled, original)


def on_canvas(size: tuple[int, int], patches: Sequence[Patch], masks: Sequence[Mask]) -> Mask:
    """Per-patch masks put together in the whole image."""
    canvas = np.zeros(size, dtype=np.bool_)
    for patch, mask in zip(patches, masks, strict=True):
        canvas[patch.slices] |= mask
    return canvas


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one shape; two empty masks are equal (1)."""
    total = int((a | b).sum())
    return 1.0 if total == 0 else int((a & b).sum()) / total
