"""The sides of a trial against what people drew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from int_model.core.types import Mask, union
from int_model.evaluation.saliency import correction_efforts
from int_model.evaluation.statistics import mean_interval
from int_model.html.text import counted
from ml_backend.trial.types import Comparison, Outcome, Region, Side, Tried

ROUNDS = 2000
FIGURES = ("iou", "dice", "hce")
"""Overlap, overlap counted twice, and human correction efforts: clicks that mend the mask."""


def figures_of(regions: Sequence[Region], truth: Mask) -> dict[str, float]:
    """IoU, Dice and HCE of all regions together against ``truth``, ``bool [H, W]``; two empty masks agree."""
    found = union((truth.shape[0], truth.shape[1]), [region.mask for region in regions])
    both, either = int(np.sum(found & truth)), int(np.sum(found | truth))
    size = int(found.sum()) + int(truth.sum())
    return {
        "iou": both / either if either else 1.0,
        "dice": 2 * both / size if size else 1.0,
        "hce": correction_efforts(found, truth),
    }


def compare(images: Sequence[Tried], sides: int) -> tuple[dict[str, tuple[Comparison, ...]], int]:
    """The figures of each side over the images where all sides have them, and how many images these are."""
    complete = [one.outcomes for one in images if all(outcome.figures for outcome in one.outcomes)]
    if not complete:
        return {}, 0
    return {name: tuple(_comparison(complete, name, i) for i in range(sides)) for name in FIGURES}, len(complete)


def verdict(comparisons: dict[str, tuple[Comparison, ...]], sides: Sequence[Side], annotated: int) -> str:
    """The outcome in one sentence, by IoU."""
    if not comparisons:
        return "No image of the trial is annotated, so nothing says which side is better; look at the pictures."
    if len(sides) == 1:
        mean, low, high = comparisons["iou"][0].mean
        return f"Mean IoU {mean:.2f} ({low:.2f} to {high:.2f}) on {counted(annotated, 'annotated image')}."
    best = max(range(len(sides)), key=lambda i: comparisons["iou"][i].mean[0])
    others = [entry.difference for entry in comparisons["iou"][1:] if entry.difference is not None]
    told = [f"'{side.name}' {entry.mean[0]:.2f}" for side, entry in zip(sides, comparisons["iou"], strict=True)]
    clear = any(low > 0 or high < 0 for _, low, high in others)
    basis = f"on {counted(annotated, 'annotated image')} (mean IoU: {', '.join(told)})"
    if not clear:
        return f"No difference can be told {basis}; try more images, or decide by the pictures."
    return f"'{sides[best].name}' is the best {basis}."


def _comparison(complete: Sequence[tuple[Outcome, ...]], name: str, side: int) -> Comparison:
    values = [outcomes[side].figures[name] for outcomes in complete]
    first = [outcomes[0].figures[name] for outcomes in complete]
    difference = _interval([a - b for a, b in zip(values, first, strict=True)]) if side else None
    return Comparison(_interval(values), difference)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    found = mean_interval(values, ROUNDS)
    if math.isnan(found.low):  # one image has no interval: it could be anything
        return found.value, -math.inf, math.inf
    return found.value, found.low, found.high
