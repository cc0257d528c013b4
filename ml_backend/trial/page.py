"""The page of a trial: one file with pictures, figures and a threshold that hides and shows regions at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import urlencode

from int_model.html.environment import render
from int_model.html.pictures import mask, photo
from int_model.io.drawing import colour_of, hex_colour
from ml_backend.trial.types import Comparison, Outcome, Side, Trial, Tried

_SIDE = 360
_BINS = 20
_HEADINGS = {"iou": ("IoU", 2), "dice": ("Dice", 2), "hce": ("Corrections (HCE)", 1)}


@dataclass(frozen=True, slots=True)
class _Shape:
    label: str
    score: float
    uri: str


@dataclass(frozen=True, slots=True)
class _Cell:
    """One side on one image."""

    shapes: tuple[_Shape, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Row:
    """One image: its picture ("" if it cannot be had), the outline of what people drew, and a cell per side."""

    tried: Tried
    photo: str
    truth: str
    cells: tuple[_Cell, ...]


@dataclass(frozen=True, slots=True)
class _Histogram:
    """How many regions of a label have a score in each twentieth, for one side."""

    label: str
    colour: str
    side: str
    counts: tuple[int, ...]

    @property
    def most(self) -> int:
        """The highest bar, at least 1."""
        return max(1, *self.counts)

    @property
    def words(self) -> str:
        """The bars in words."""
        shown = [f"{n} at {i / _BINS:.2f}" for i, n in enumerate(self.counts) if n]
        return f"Scores of {self.label or 'regions'} by {self.side}: {', '.join(shown) or 'none'}"


def render_page(trial: Trial, back: str = "") -> str:
    """The page as HTML without anything from elsewhere.

    Args:
        trial: that is done.
        back: address of the project's page, or "" in a file.
    """
    labels = sorted({region.label for one in trial.images for o in one.outcomes for region in o.regions})
    colours = {label: i for i, label in enumerate(labels)}
    return render(
        "ml_backend.trial",
        "trial.html.j2",
        trial=trial,
        back=back,
        rows=[_row(one, colours) for one in trial.images],
        uses=[_use(side) for side in trial.request.sides],
        legend=[(label or "without label", hex_colour(i)) for label, i in colours.items()],
        figures=[
            (heading, [_told(entry, digits) for entry in trial.comparisons[name]])
            for name, (heading, digits) in _HEADINGS.items()
            if name in trial.comparisons
        ],
        histograms=[
            _histogram(trial, side, label, hex_colour(i))
            for label, i in colours.items()
            for side in range(len(trial.request.sides))
        ],
        bins=_BINS,
    )


def _use(side: Side) -> str:
    """The query of the project's page that asks for a side."""
    return urlencode({name: value for name, value in (("prompt", side.prompt), ("strategy", side.strategy)) if value})


def _row(one: Tried, colours: dict[str, int]) -> _Row:
    picture = "" if one.image is None else photo(one.image, _SIDE)
    truth = "" if one.truth is None or not one.truth.any() else mask(one.truth, (255, 255, 255), _SIDE, 0.0)
    return _Row(one, picture, truth, tuple(_cell(outcome, colours) for outcome in one.outcomes))


def _cell(outcome: Outcome, colours: dict[str, int]) -> _Cell:
    shapes = (_Shape(r.label, r.score, mask(r.mask, colour_of(colours[r.label]), _SIDE)) for r in outcome.regions)
    return _Cell(tuple(shapes), outcome)


def _histogram(trial: Trial, side: int, label: str, colour: str) -> _Histogram:
    counts = [0] * _BINS
    for one in trial.images:
        for region in one.outcomes[side].regions:
            if region.label == label:
                counts[min(int(region.score * _BINS), _BINS - 1)] += 1
    return _Histogram(label, colour, trial.request.sides[side].name, tuple(counts))


def _told(entry: Comparison, digits: int) -> tuple[str, str]:
    """The mean with its interval, and the difference to the first side."""
    return _span(entry.mean, digits), "" if entry.difference is None else _span(entry.difference, digits, sign="+")


def _span(values: tuple[float, float, float], digits: int, sign: str = "") -> str:
    value, low, high = values
    head = f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # no "-0.00"
    return head if math.isinf(low) else f"{head} ({low:.{digits}f} to {high:.{digits}f})"
