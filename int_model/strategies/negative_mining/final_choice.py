"""The end of the loop: when to stop, which iteration's mask is the answer, how far its instances may be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import EarlyStopConfig
from int_model.core.types import Floats, IterationTrace, SoftMask
from int_model.strategies.negative_mining.inpainting import mask_iou


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
    """GenSAM's rule: the last ``patience`` mean absolute changes are small, and so differ by little."""
    if config.rule != "gensam" or len(maps) <= config.patience:
        return False
    recent = maps[-config.patience - 1 :]
    return all(float(np.abs(b - a).mean()) < config.tolerance for a, b in pairwise(recent))


def is_unchanged(iterations: Sequence[IterationTrace], same_iou: float) -> bool:
    """Whether the last two iterations have one name and one mask: the next one would be asked the same again."""
    if len(iterations) < 2:
        return False
    last, before = iterations[-1], iterations[-2]
    return last.winner_name == before.winner_name and mask_iou(last.mask, before.mask) > same_iou


def instance_score(box_score: float, predicted_iou: float, semantic: float, *more: float) -> float:
    """How far an instance may be trusted, in ``[0, 1]``: the geometric mean of its witnesses (our choice).

    The detector's score of its box, the segmenter's predicted IoU, the semantic score relative to the best mask, and
    ``more``: the agreement of the iterations (mean of the averaged soft map inside the mask), perhaps the contrast of
    the instance relative to the best. One witness near zero pulls the score down; none alone lifts it.
    """
    witnesses = np.clip([box_score, predicted_iou, semantic, *more], 0.0, 1.0)
    return float(np.prod(witnesses) ** (1 / len(witnesses)))
