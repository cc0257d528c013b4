"""Scores that mean something: an isotonic map from a prediction's score to the IoU that it turned out to have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from int_model.core.types import Instance, Mask
from int_model.learning.adaptation import Calibration
from int_model.learning.arms.outlines import overlap

LEAST_INSTANCES = 20
"""Fewer predictions make no calibration."""


def fit_calibration(scores: Sequence[float], ious: Sequence[float]) -> Calibration | None:
    """The calibration of predictions whose IoU with the truth is known; None with fewer than ``LEAST_INSTANCES``."""
    from sklearn.isotonic import IsotonicRegression

    if len(scores) < LEAST_INSTANCES:
        return None
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit(np.asarray(scores), np.asarray(ious))
    return Calibration(
        np.asarray(model.X_thresholds_, dtype=np.float64), np.asarray(model.y_thresholds_, dtype=np.float64)
    )


def matched_ious(instances: Sequence[Instance], truths: Sequence[Mask]) -> list[tuple[float, float]]:
    """(score, IoU with the best fitting true object, 0 without any) of each predicted instance."""
    return [
        (instance.score, max((overlap(instance.mask, truth) for truth in truths), default=0.0))
        for instance in instances
    ]


def reliability(scores: Sequence[float], ious: Sequence[float], bins: int = 10) -> list[tuple[float, float, int]]:
    """The reliability diagram: per bin of scores with predictions in it the mean score, the mean IoU, their number."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(ious, dtype=np.float64)
    index = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    return [
        (float(values[index == i].mean()), float(truth[index == i].mean()), int((index == i).sum()))
        for i in range(bins)
        if (index == i).any()
    ]


def expected_calibration_error(scores: Sequence[float], ious: Sequence[float]) -> float:
    """Mean distance of score and IoU over the bins of the reliability diagram, weighted by their numbers."""
    table = reliability(scores, ious)
    total = sum(count for _, _, count in table)
    return sum(abs(score - iou) * count for score, iou, count in table) / total if total else 0.0
