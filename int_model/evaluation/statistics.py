"""From results to numbers with intervals: images are resampled, variants are compared on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from int_model.core.types import Floats
from int_model.evaluation.instances import average_precision, pooled_f1
from int_model.evaluation.metrics import Metric
from int_model.evaluation.records import Record

LEVEL = 0.95
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
_CHUNK = 256  # resamplings at once: bounds the memory of large data sets


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % percentile bootstrap interval, over ``images`` images. NaN where it is not defined."""

    value: Number
    low: Number
    high: Number
    images: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval (of a difference)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A metric of one variant: its value, and what it would have been in each of R resamplings of the images."""

    value: float
    resampled: Floats
    images: frozenset[str]

    def interval(self) -> Interval:
        """Value and percentile interval."""
        return interval(self.value, self.resampled, len(self.images))


def draw(images: Sequence[str], rounds: int, seed: int = 0) -> tuple[dict[str, int], Floats]:
    """Resampling with replacement: column of each image, and how often each is drawn, ``float64 [rounds, n]``.

    Seeded; the same images in the same order give the same draws. Raises ``ValueError`` without images or rounds.
    """
    if not images or rounds < 1:
        raise ValueError("a bootstrap needs at least one image and one round")
    rng = np.random.default_rng(seed)
    n = len(images)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=rounds).astype(np.float64)
    return {image: i for i, image in enumerate(images)}, counts


def sample(metric: Metric, records: Sequence[Record], columns: dict[str, int], counts: Floats) -> Sample | None:
    """The metric over ``records`` (several seeds of an image share its draws); None if no record defines it."""
    rows = [record for record in records if _defined(metric, record)]
    if not rows:
        return None
    place = np.array([columns[record.example] for record in rows])
    (value,) = _statistic(metric, rows, np.ones((1, len(rows))))
    parts = [
        _statistic(metric, rows, counts[start : start + _CHUNK][:, place]) for start in range(0, len(counts), _CHUNK)
    ]
    return Sample(float(value), np.concatenate(parts), frozenset(record.example for record in rows))


def interval(value: float, resampled: Floats, images: int) -> Interval:
    """Percentile interval of a value; rounds in which it was not defined are left out. One image has no interval."""
    known = resampled[np.isfinite(resampled)]
    if known.size == 0 or images < 2:
        return Interval(value, float("nan"), float("nan"), images)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(known, (tail, 100 - tail))
    return Interval(value, float(low), float(high), images)


def mean_interval(values: Sequence[float], rounds: int) -> Interval:
    """The mean of independent trials, with its interval. Raises ``ValueError`` without values."""
    data = np.asarray(values, dtype=np.float64)
    _, counts = draw([str(i) for i in range(len(data))], rounds)
    return interval(float(data.mean()), counts @ data / len(data), len(data))


def _defined(metric: Metric, record: Record) -> bool:
    if not record.done:
        return False
    if metric.kind == "mean":
        return record.metrics.get(metric.name) is not None
    if metric.kind == "curve":
        return metric.name in record.curves
    return record.detections is not None


def _statistic(metric: Metric, rows: Sequence[Record], weights: Floats) -> Floats:
    """The metric for each row of ``weights [R, n]``; NaN where no image is drawn."""
    total = weights.sum(axis=1)
    if metric.kind == "mean":
        values = np.array([record.metrics[metric.name] for record in rows], dtype=np.float64)
        return _mean(weights @ values, total)
    if metric.kind == "curve":
        curves = np.stack([record.curves[metric.name] for record in rows])
        return _mean((weights @ curves).max(axis=1), total)
    found = [record.detections for record in rows if record.detections is not None]
    if metric.kind == "ap":
        return average_precision(found, weights, metric.threshold)
    if metric.threshold is None:
        raise ValueError(f"metric '{metric.name}' needs an IoU threshold")
    return np.where(total > 0, pooled_f1(found, weights, metric.threshold), np.nan)


def _mean(sums: Floats, total: Floats) -> Floats:
    return np.where(total > 0, sums / np.maximum(total, 1), np.nan)
