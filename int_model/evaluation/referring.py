"""How well expressions are understood: masks, points and "not present", with intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats, Mask
from int_model.evaluation.statistics import Interval, draw, interval

Column = Callable[["ReferringTable", Floats], Floats]
"""A figure for each row of weights ``[R, N]`` of the pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Grounded:
    """What a method answered to one expression.

    Attributes:
        mask: ``bool [H, W]``, or None where it says that nothing there is meant.
        points: ``float64 [P, 2]`` (x, y) in pixels that the segmenter was given; none for methods of boxes.
        labels: ``int64 [P]``, 1 or 0.
        presence: how sure it is that the thing is there; any scale.
    """

    mask: Mask | None
    presence: float
    points: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class PairScore:
    """One answer against the truth.

    Attributes:
        image: of which image; intervals are over images.
        kind: of expression.
        present: whether the image shows what is meant; the figures of masks and points are of such pairs only.
        presence: as answered.
        common, either, found, true: pixels of the intersection, the union, the answer and the truth.
        on_object: share of the positive points that lie on the object, None without positives.
        off_object: share of the negative points that lie beside it, None without negatives.
    """

    image: str
    kind: str
    present: bool
    presence: float
    common: int = 0
    either: int = 0
    found: int = 0
    true: int = 0
    on_object: float | None = None
    off_object: float | None = None


def score_pair(image: str, kind: str, answer: Grounded, truth: Mask | None) -> PairScore:
    """Compare an answer with the truth; ``truth`` None: the image shows nothing that is meant."""
    if truth is None:
        return PairScore(image, kind, present=False, presence=answer.presence)
    mask = np.zeros_like(truth) if answer.mask is None else answer.mask
    height, width = truth.shape
    x = np.clip(answer.points[:, 0].astype(np.int64), 0, width - 1)
    y = np.clip(answer.points[:, 1].astype(np.int64), 0, height - 1)
    hit = truth[y, x]
    positive, negative = hit[answer.labels == 1], ~hit[answer.labels == 0]
    return PairScore(
        image,
        kind,
        present=True,
        presence=answer.presence,
        common=int((mask & truth).sum()),
        either=int((mask | truth).sum()),
        found=int(mask.sum()),
        true=int(truth.sum()),
        on_object=float(positive.mean()) if len(positive) else None,
        off_object=float(negative.mean()) if len(negative) else None,
    )


class ReferringTable:
    """Scores of one method over pairs, as columns."""

    def __init__(self, scores: Sequence[PairScore]) -> None:
        self.images = [score.image for score in scores]
        self.present = np.array([score.present for score in scores], dtype=np.bool_)
        self.presence = np.array([score.presence for score in scores], dtype=np.float64)
        self.common = np.array([score.common for score in scores], dtype=np.float64)
        self.either = np.array([score.either for score in scores], dtype=np.float64)
        found = np.array([score.found for score in scores], dtype=np.float64)
        true = np.array([score.true for score in scores], dtype=np.float64)
        self.iou = self.common / np.maximum(self.either, 1)
        self.recall = self.common / np.maximum(true, 1)
        self.precision = np.where(found > 0, self.common / np.maximum(found, 1), np.nan)
        self.on_object = np.array([_or_nan(score.on_object) for score in scores])
        self.off_object = np.array([_or_nan(score.off_object) for score in scores])

    def mean(self, values: Floats, weights: Floats) -> Floats:
        """The weighted mean of values that exist, over pairs whose thing is there; NaN where there is none."""
        usable = self.present & np.isfinite(values)
        part = weights[:, usable]
        total = part.sum(axis=1)
        return np.where(total > 0, part @ values[usable] / np.maximum(total, 1e-9), np.nan)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _overall(table: ReferringTable, weights: Floats) -> Floats:
    part = weights[:, table.present]
    return np.asarray(part @ table.common[table.present] / np.maximum(part @ table.either[table.present], 1))


def _auc(table: ReferringTable, weights: Floats) -> Floats:
    """Probability that a pair whose thing is there scores above one whose thing is not; ties count half."""
    order = np.argsort(table.presence, kind="stable")
    present = table.present[order]
    starts = np.flatnonzero(np.r_[True, np.diff(table.presence[order]) > 0])
    positive = np.add.reduceat(weights[:, order] * present, starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~present, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    hits = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.where(pairs > 0, hits / np.maximum(pairs, 1e-9), np.nan)


COLUMNS: dict[str, Column] = {
    "mIoU": lambda table, weights: table.mean(table.iou, weights),
    "oIoU": _overall,
    "P@0.5": lambda table, weights: table.mean((table.iou > 0.5).astype(np.float64), weights),
    "positives on the object": lambda table, weights: table.mean(table.on_object, weights),
    "negatives beside it": lambda table, weights: table.mean(table.off_object, weights),
    "area found": lambda table, weights: table.mean(table.recall, weights),
    "area right": lambda table, weights: table.mean(table.precision, weights),
    "not-present AUC": _auc,
}
"""Figures of a table. "area found" is the part-focus index: the share of the object that the mask covers. Where it is
low while "area right" (the share of the mask that is object) is high, masks are of parts."""


def referring_table(scores: Sequence[PairScore], rounds: int = 2_000) -> dict[str, Interval]:
    """Every figure with its 95 % interval, from resampling images; figures that no pair defines are NaN."""
    table = ReferringTable(scores)
    images = list(dict.fromkeys(table.images))
    columns, counts = draw(images, rounds)
    weights = counts[:, [columns[image] for image in table.images]]
    ones = np.ones((1, len(table.images)))
    return {
        name: interval(float(column(table, ones)[0]), column(table, weights), len(images))
        for name, column in COLUMNS.items()
    }


def difference(one: Sequence[PairScore], other: Sequence[PairScore], rounds: int = 2_000) -> Interval:
    """Mean IoU of one method less that of another on the same pairs, with its paired interval.

    Raises ``ValueError`` if the pairs are not the same.
    """
    first, second = ReferringTable(one), ReferringTable(other)
    if first.images != second.images or not np.array_equal(first.present, second.present):
        raise ValueError("the two methods answered different pairs")
    images = list(dict.fromkeys(first.images))
    columns, counts = draw(images, rounds)
    weights = counts[:, [columns[image] for image in first.images]]
    change = first.iou - second.iou
    ones = np.ones((1, len(change)))
    return interval(float(first.mean(change, ones)[0]), first.mean(change, weights), len(images))
