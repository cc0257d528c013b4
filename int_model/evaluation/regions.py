"""Overlap and outline figures of two masks: pure functions, defined for empty, full and one-pixel masks alike."""

from __future__ import annotations

import math

import cv2
import numpy as np

from int_model.core.types import Mask

BOUNDARY_TOLERANCE = 0.008
"""Part of the image's diagonal within which two outlines count as the same (the DAVIS benchmark's value)."""

BAND = 0.02
"""Part of the image's diagonal that the band of boundary IoU is wide (the value of its paper)."""


def overlap(mask: Mask, truth: Mask) -> dict[str, float]:
    """``iou``, ``dice``, ``sensitivity``, ``specificity``, ``accuracy`` of two masks ``bool [H, W]``.

    A ratio of nothing to nothing is 1: nothing was there to be missed or spoilt. Raises ``ValueError`` if shapes
    differ.
    """
    if mask.shape != truth.shape:
        raise ValueError(f"the masks differ in shape: {list(mask.shape)} and {list(truth.shape)}")
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    found, sought, pixels = int(mask.sum()), int(truth.sum()), mask.size
    return {
        "iou": _ratio(both, either),
        "dice": _ratio(2 * both, found + sought),
        "sensitivity": _ratio(both, sought),
        "specificity": _ratio(pixels - either, pixels - sought),
        "accuracy": _ratio(pixels - either + both, pixels),
    }


def boundary_f(mask: Mask, truth: Mask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F1 of the outline pixels that lie within ``tolerance`` (part of the diagonal, at least 1 pixel) of the other's.

    The outline is the mask's outermost layer of pixels; pixels at the image's edge belong to it. Distances are
    Euclidean. Two empty masks score 1, an empty one against another 0.
    """
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    reach = tolerance_pixels(mask.shape, tolerance)
    a, b = _outline(mask), _outline(truth)
    precision = float((_distance_to(b)[a] <= reach).mean())
    recall = float((_distance_to(a)[b] <= reach).mean())
    return _ratio(2 * precision * recall, precision + recall) if precision + recall else 0.0


def boundary_iou(mask: Mask, truth: Mask, tolerance: float = BAND) -> float:
    """IoU of the parts of two masks ``bool [H, W]`` that lie within a band along their outlines (arXiv 2103.16562).

    The band is ``tolerance`` of the image's diagonal wide (at least 1 pixel) and lies inside each mask. Unlike IoU it
    does not forgive large objects their outlines. Two empty masks score 1.
    """
    reach = tolerance_pixels(mask.shape, tolerance)
    a, b = (one & (_depth(one) <= reach) for one in (mask, truth))
    return _ratio(int((a & b).sum()), int((a | b).sum()))


def _depth(mask: Mask) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Distance of every pixel of a mask to what is outside of it; beyond the image's edge is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], dtype=np.float32)


def tolerance_pixels(shape: tuple[int, ...], tolerance: float = BOUNDARY_TOLERANCE) -> int:
    """The outline tolerance in whole pixels for an image of that shape."""
    return max(1, math.ceil(tolerance * math.hypot(shape[0], shape[1])))


def _outline(mask: Mask) -> Mask:
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (core == 0), dtype=np.bool_)


def _distance_to(outline: Mask) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    distance = cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)


def _ratio(part: float, whole: float) -> float:
    return 1.0 if whole == 0 else part / whole
