"""What is removed from the patches (paper eq. 3), and the paste-back of what is not: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def patch_masks(patches: Sequence[Patch], boxes: Sequence[Box | None], dilation: float) -> list[Mask]:
    """What each patch loses in iteration 1, ``bool`` of the patch's size: its own box, grown.

    A patch without a box loses what the boxes of the other patches cover of it, perhaps nothing. The growth is
    ``dilation`` times the patch's diagonal.
    """
    known = [box for box in boxes if box is not None]
    masks: list[Mask] = []
    for patch, own in zip(patches, boxes, strict=True):
        inside = [patch.from_image(box) for box in ([own] if own is not None else known)]
        mask = union(patch.size, [box.to_mask(*patch.size) for box in inside if box is not None])
        masks.append(grow(mask, dilation * diagonal(*patch.size)))
    return masks


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
