"""The end of the loop: when to stop, which iteration's mask is the answer, which of its masks are instances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import EarlyStopConfig
from int_model.core.types import Floats, Instance, Mask, SoftMask, union


def closest_to_mean(maps: Sequence[NDArray[Any]]) -> tuple[int, Floats]:
    """Eq. 14: the index of the map closest to the mean of all maps, and every map's mean squared difference to it.

    Maps of any dtype (bool, 0/1 or 0/255 integers, floats) are compared as ``float64`` scaled by their common
    maximum, so the choice does not depend on it. Ties go to the later map. Raises ``ValueError`` without maps.
    """
    if not maps:
        raise ValueError("there is no mask to choose from")
    stack = [np.asarray(layer, dtype=np.float64) for layer in maps]
    scale = max(1.0, *(float(layer.max()) for layer in stack))
    mean = sum(stack[1:], start=stack[0].copy()) / len(stack)
    distances = np.array([float(np.mean((layer - mean) ** 2)) for layer in stack]) / scale**2
    nearest = np.flatnonzero(distances <= distances.min() + 1e-12)
    return int(nearest[-1]), distances


def has_settled(maps: Sequence[SoftMask], config: EarlyStopConfig) -> bool:
    """GenSAM's rule: the last ``patience`` mean absolute changes are small, and differ by little."""
    if config.rule == "off" or len(maps) <= config.patience:
        return False
    recent = maps[-config.patience - 1 :]
    changes = [float(np.abs(b - a).mean()) for a, b in pairwise(recent)]
    return max(changes) < config.tolerance and max(changes) - min(changes) < config.tolerance


def distinct_masks(masks: Sequence[Mask], scores: Sequence[float], max_iou: float, max_cover: float) -> list[int]:
    """Indices of the masks that are instances of their own, best score first; empty masks are none.

    Going down the scores, a mask is dropped if its IoU with a kept one exceeds ``max_iou`` or if the kept ones cover
    it to ``max_cover``. If it swallows (to ``max_cover``) exactly one kept mask, that was a part of the same object
    and the larger mask takes its place; if it swallows several, it is a group and is dropped.
    """
    kept: list[int] = []
    areas = [int(mask.sum()) for mask in masks]
    for i in sorted((i for i in range(len(masks)) if areas[i]), key=lambda i: -scores[i]):
        common = {j: int((masks[i] & masks[j]).sum()) for j in kept}
        if any(shared > max_iou * (areas[i] + areas[j] - shared) for j, shared in common.items()):
            continue
        covered = int((masks[i] & union(masks[i].shape, [masks[j] for j in kept])).sum())  # type: ignore[arg-type]
        swallowed = [j for j, shared in common.items() if shared >= max_cover * areas[j]]
        if covered >= max_cover * areas[i] or len(swallowed) > 1:
            continue
        kept = [i if j in swallowed else j for j in kept] if swallowed else [*kept, i]
    return sorted(kept, key=lambda i: -scores[i])


def instance_score(box_score: float, predicted_iou: float, semantic: float, agreement: float) -> float:
    """How far an instance may be trusted, in ``[0, 1]``: the geometric mean of four witnesses (our choice).

    The detector's score of its box, the segmenter's predicted IoU, the semantic score relative to the best mask, and
    the agreement of the iterations (mean of the averaged soft map inside the mask). One witness near zero pulls the
    score down; none alone lifts it.
    """
    witnesses = np.clip([box_score, predicted_iou, semantic, agreement], 0.0, 1.0)
    return float(np.prod(witnesses) ** 0.25)


def trusted(instances: Sequence[Instance], min_score: float) -> tuple[tuple[Instance, ...], float]:
    """The instances that reach ``min_score``, and the score of the whole: the area-weighted mean of theirs.

    If none does, the score is that of the best one (0 without instances).
    """
    kept = tuple(instance for instance in instances if instance.score >= min_score)
    if not kept:
        return (), max((instance.score for instance in instances), default=0.0)
    areas = np.array([instance.area for instance in kept], dtype=np.float64)
    mean = float(np.average([instance.score for instance in kept], weights=areas))
    return kept, min(1.0, mean)
