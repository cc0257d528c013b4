"""From a pseudo-mask to the points that a generator should give: well spread on it, and beside it (spec B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask
from int_model.learning.prompts import distance_to

Cells = NDArray[np.float32]
_MOST_PIXELS = 400  # drawn from a mask before points are spread over it


@dataclass(frozen=True, slots=True, eq=False)
class PointTargets:
    """Points ``float32 [T, 2]`` in [0, 1] of the image with labels ``float32 [T]``: 1 on the object, 0 beside it."""

    points: Cells
    labels: Cells


def spread(mask: Mask, count: int, rng: np.random.Generator) -> Cells:
    """Up to ``count`` pixels (x, y) of a mask by farthest-point sampling from a random start; ``[0, 2]`` if empty.

    Well-distributed points are the paper's remedy against masks of parts.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows) or not count:
        return np.zeros((0, 2), dtype=np.float32)
    if len(rows) > _MOST_PIXELS:
        some = rng.choice(len(rows), _MOST_PIXELS, replace=False)
        rows, columns = rows[some], columns[some]
    pixels = np.stack([columns, rows], axis=-1).astype(np.float32)
    chosen = [int(rng.integers(len(pixels)))]
    reach = np.linalg.norm(pixels - pixels[chosen[0]], axis=1)
    while len(chosen) < min(count, len(pixels)):
        chosen.append(int(reach.argmax()))
        reach = np.minimum(reach, np.linalg.norm(pixels - pixels[chosen[-1]], axis=1))
    return pixels[chosen]


def eroded(mask: Mask, part: float = 0.03) -> Mask:
    """The mask without its rim of ``part`` of its size; the mask itself where nothing would be left."""
    size = float(np.sqrt(max(1, int(mask.sum()))))
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    inner = depth > max(1.0, part * size)
    return np.asarray(inner if inner.any() else mask)


def point_targets(
    mask: Mask | None,
    others: Sequence[Mask],
    shown: tuple[int, int],
    rng: np.random.Generator,
    *,
    positives: int = 6,
    negatives: int = 6,
) -> PointTargets:
    """Targets of one pair.

    Half of the negatives lie in a ring around the mask (5 to 25 % of its size away), half on other objects; what one
    of the two cannot give, the other does, so that negatives are as many as asked for wherever there is room.

    Args:
        mask: of the object on the logits' cells, ``bool [c, c]``; None: the expression means nothing in this image,
            and every target is a negative.
        others: masks of other objects, best known first.
        shown: rows and columns of the cells that show the image.
        rng: of all draws.
        positives: points on the object.
        negatives: points beside it; 0: none are asked for.
    """
    high, wide = shown
    seen = [np.asarray(other[:high, :wide]) for other in others]
    if mask is None:
        spots = _on_others(seen, positives + negatives, rng)
        if not len(spots):
            spots = spread(np.ones(shown, dtype=np.bool_), positives + negatives, rng)
        return _scaled(spots, np.zeros(len(spots), dtype=np.float32), shown)
    own = np.asarray(mask[:high, :wide])
    inside = spread(eroded(own), positives, rng)
    size = float(np.sqrt(max(1, int(own.sum()))))
    away = distance_to(own)
    ring = (away >= max(1.5, 0.05 * size)) & (away <= max(4.0, 0.25 * size))
    foreign = [other & ~own & (away >= 1.5) for other in seen]
    on_others = _on_others(foreign, negatives // 2, rng)
    beside = spread(ring, negatives - len(on_others), rng)
    missing = negatives - len(on_others) - len(beside)
    if missing > 0:
        beside = np.concatenate([beside, spread(~own & (away >= 1.5), missing, rng)])
    points = np.concatenate([inside, on_others, beside]).astype(np.float32)
    labels = np.concatenate([np.ones(len(inside)), np.zeros(len(points) - len(inside))]).astype(np.float32)
    return _scaled(points, labels, shown)


def _on_others(others: Sequence[Mask], count: int, rng: np.random.Generator) -> Cells:
    """Points dealt out to the other objects in turn."""
    filled = [other for other in others if other.any()]
    if not filled or not count:
        return np.zeros((0, 2), dtype=np.float32)
    shares = [count // len(filled) + int(i < count % len(filled)) for i in range(len(filled))]
    dealt = [spread(eroded(other), share, rng) for other, share in zip(filled, shares, strict=True) if share]
    return np.concatenate(dealt).astype(np.float32)


def _scaled(points: Cells, labels: Cells, shown: tuple[int, int]) -> PointTargets:
    placed = (points + 0.5) / np.array([shown[1], shown[0]])
    return PointTargets(placed.astype(np.float32), labels)


def grouped(targets: PointTargets, size: int) -> tuple[Cells, Cells]:
    """Targets in groups of ``size`` points of one label: ``[G, size, 2]`` and labels ``[G]``.

    For generators whose query is an object: its points are matched together. Groups that are not full repeat points.
    """
    groups: list[Cells] = []
    labels: list[float] = []
    for label in (1.0, 0.0):
        points = targets.points[targets.labels == label]
        for start in range(0, len(points), size):
            part = points[start : start + size]
            groups.append(part[np.arange(size) % len(part)])
            labels.append(label)
    return np.asarray(groups, dtype=np.float32).reshape(-1, size, 2), np.asarray(labels, dtype=np.float32)
