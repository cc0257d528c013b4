"""How sure the cheap answer must be: cost and accuracy of ``auto`` for every threshold, and the one that fits.

``auto`` keeps the answer of ``grounded_sam`` where its confidence reaches a threshold and asks INT elsewhere. From
images on which all three ran, what it would have given under any threshold is known without running it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from int_model.evaluation.records import Record
from int_model.evaluation.result import Evaluation

TOLERANCE = 0.005
"""So much mean IoU may be given away for fewer calls."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image: the confidence in the cheap answer, and IoU and model calls of both ways."""

    confidence: float
    cheap: float
    dear: float
    cheap_calls: float
    dear_calls: float


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold gives: mean IoU, mean model calls, the part of the images for which INT is asked."""

    threshold: float
    iou: float
    calls: float
    asked: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """The curve from "never INT" to "always INT", the point that fits, and how many images it is from."""

    points: tuple[Point, ...]
    fitted: Point
    images: int

    def explain(self) -> str:
        """One line for people."""
        never, always, best = self.points[0], self.points[-1], self.fitted
        ends = f"never INT: {never.iou:.3f} at {never.calls:.0f}; always: {always.iou:.3f} at {always.calls:.0f}"
        fitted = f"auto.threshold={best.threshold:.2f} fits these {self.images} images"
        return f"{fitted}: IoU {best.iou:.3f} at {best.calls:.0f} calls ({ends})"


def curve(cases: Sequence[Case]) -> tuple[Point, ...]:
    """A point for every threshold that makes a difference, rising; the last asks INT always."""
    count = len(cases)
    ordered = sorted(cases, key=lambda case: case.confidence)
    iou = sum(case.cheap for case in ordered)
    calls = sum(case.cheap_calls for case in ordered)
    points = [Point(0.0, iou / count, calls / count, 0.0)]
    for i, case in enumerate(ordered):
        iou += case.dear - case.cheap
        calls += case.dear_calls
        above = ordered[i + 1].confidence if i + 1 < count else 1.0
        if above > case.confidence:
            middle = (case.confidence + above) / 2
            threshold = middle if middle > case.confidence else above
            points.append(Point(threshold, iou / count, calls / count, (i + 1) / count))
    return tuple(points)


def fit(cases: Sequence[Case], tolerance: float = TOLERANCE) -> Doubt:
    """The cheapest threshold with a mean IoU within ``tolerance`` of the best. Raises ``ValueError`` without cases."""
    if not cases:
        raise ValueError("a threshold is fitted on at least one image")
    points = curve(cases)
    best = max(point.iou for point in points)
    fitted = next(point for point in points if point.iou >= best - tolerance)
    return Doubt(points, fitted, len(cases))


def of_evaluation(evaluation: Evaluation) -> Doubt | None:
    """The fit on the images on which the first variants of ``auto``, ``grounded_sam`` and ``int`` all ran, if any."""
    variants = {variant.strategy: variant.name for variant in reversed(evaluation.variants)}
    if not {"auto", "grounded_sam", "int"} <= variants.keys():
        return None
    rows: dict[tuple[str, int], dict[str, Record]] = {}
    for record in evaluation.records:
        if record.done:
            rows.setdefault((record.example, record.seed), {})[record.variant] = record
    cases = []
    for own in rows.values():
        auto, cheap, dear = (own.get(variants[name]) for name in ("auto", "grounded_sam", "int"))
        if auto is None or cheap is None or dear is None:
            continue
        sure, one, two = auto.metrics.get("confidence"), cheap.metrics["iou"], dear.metrics["iou"]
        if sure is not None and one is not None and two is not None:
            cases.append(Case(sure, one, two, sum(cheap.calls.values()), sum(dear.calls.values())))
    return fit(cases) if cases else None
