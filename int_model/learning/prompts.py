"""Prompts as annotators give them, simulated from a true mask (A.7: clicks anywhere on the object, loose boxes)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Floats, Mask
from int_model.learning.examples import Target
from int_model.models.protocols import MaskPrompt

_BORDER = 0.05  # of the object's equivalent diameter
_MAX_JITTER = 20.0  # pixels of a box's corner


def depth_of(mask: Mask) -> NDArray[np.float32]:
    """Distance in pixels of every pixel to the mask's outside (0 outside), ``float32 [H, W]``."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], dtype=np.float32)


def distance_to(mask: Mask) -> NDArray[np.float32]:
    """Distance in pixels of every pixel to the nearest one of the mask (0 on it), ``float32 [H, W]``."""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5), dtype=np.float32)


def positive_point(mask: Mask, rng: np.random.Generator) -> Floats:
    """A click on the object ``float64 [2]``: anywhere (half of them), near its middle (.3) or near its border (.2)."""
    depth = depth_of(mask)
    kind = rng.random()
    if kind < 0.5:
        chosen = mask
    elif kind < 0.8:
        chosen = depth >= 0.6 * depth.max()
    else:
        chosen = mask & (depth <= max(1.5, _BORDER * equivalent_diameter(mask)))
    rows, columns = np.nonzero(chosen if chosen.any() else mask)
    pick = int(rng.integers(len(rows)))
    return np.array([columns[pick] + 0.5, rows[pick] + 0.5])


def negative_point(mask: Mask, others: Mask, rng: np.random.Generator) -> Floats | None:
    """A click beside the object: in a ring around it, or, where there are any, on another object. None: no room."""
    reach = max(5.0, 0.25 * equivalent_diameter(mask))
    outside = distance_to(mask)
    ring = ~mask & (outside >= 2) & (outside <= reach)
    foreign = others & ~mask
    chosen = foreign if foreign.any() and rng.random() < 0.5 else ring
    rows, columns = np.nonzero(chosen)
    if not len(rows):
        return None
    pick = int(rng.integers(len(rows)))
    return np.array([columns[pick] + 0.5, rows[pick] + 0.5])


def loose_box(mask: Mask, rng: np.random.Generator, spread: float = 0.1) -> Box:
    """A box around the object whose corners are off by a normal share (``spread``) of its sides."""
    tight = Box.of_mask(mask)
    if tight is None:
        raise ValueError("an empty mask has no box")
    sides = np.array([tight.width, tight.height, tight.width, tight.height])
    off = np.clip(rng.normal(0, spread, 4) * sides, -_MAX_JITTER, _MAX_JITTER)
    x1, y1, x2, y2 = np.array(tight.as_tuple()) + off
    if x2 - x1 < 2 or y2 - y1 < 2:
        return tight
    return Box(x1, y1, x2, y2).clip(*mask.shape) or tight


def click_prompt(target: Target, others: Mask, rng: np.random.Generator, *, negatives: int = 0) -> MaskPrompt:
    """A click on the object and up to ``negatives`` beside it; half of the time a recorded one, where there are any."""
    if target.clicks and rng.random() < 0.5:
        clicks = target.clicks[int(rng.integers(len(target.clicks)))]
        first = int(np.argmax(clicks.labels == 1)) if (clicks.labels == 1).any() else 0
        if clicks.labels[first] == 1:
            return MaskPrompt(points=clicks.points[first : first + 1], labels=np.array([1], dtype=np.int64))
    points = [positive_point(target.mask, rng)]
    for _ in range(negatives):
        beside = negative_point(target.mask, others, rng)
        if beside is not None:
            points.append(beside)
    labels = np.array([1] + [0] * (len(points) - 1), dtype=np.int64)
    return MaskPrompt(points=np.stack(points), labels=labels)


def equivalent_diameter(mask: Mask) -> float:
    """The diameter in pixels of the disc of the same area."""
    return float(2 * np.sqrt(mask.sum() / np.pi))
