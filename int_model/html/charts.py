"""Drawings as geometry: what `kit.chart` of the templates turns into SVG. Positions are in units of the drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

_LINE = 15  # from one line of text to the next


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions: ``low`` lies at ``start``, ``high`` at ``end``; the middle if they are equal."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high != self.low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, values: Iterable[float], text: Callable[[float], str]) -> tuple[Tick, ...]:
        """A tick for each value."""
        return tuple(Tick(self(value), text(value)) for value in values)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of a scale: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Label:
    """A text; ``anchor`` says which of its ends lies at ``x``."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "end"] = "start"


@dataclass(frozen=True, slots=True)
class Line:
    """A curve. ``series`` chooses its colour, ``title`` is shown on hovering, ``tone`` is a CSS class."""

    series: int
    title: str
    points: tuple[tuple[float, float], ...]
    label: Label | None = None
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point; ``ends`` (x1, y1, x2, y2) is the line of its interval, or of anything else that belongs to it."""

    series: int
    title: str
    x: float
    y: float
    ends: tuple[float, float, float, float] | None = None
    label: Label | None = None
    radius: float = 5
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of ``width`` x ``height`` with the plot from ``left`` to ``right`` and ``top`` to ``bottom``."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    x_grid: bool = True
    x_title: str = ""
    zero: float | None = None
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A value with its interval as a row of `interval_chart`; ends that are not finite are not drawn."""

    series: int
    name: str
    value: float
    low: float
    high: float
    text: str
    tone: str = ""


def interval_chart(rows: Sequence[IntervalRow], name_width: float, *, zero: bool = False) -> Chart:
    """Values below one another, each with its interval and its name; ``zero`` adds the line of 0."""
    width, row_height = 340, 24
    ends = [v for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v)] + [0.0] * zero
    left, right, bottom = name_width, width - 14.0, float(row_height * len(rows))
    steps = nice_ticks(min(ends), max(ends))
    while len(steps) > 2 and sum(len(text) + 1 for text in _shown(steps)) * 6.6 > right - left:
        step = steps[1] - steps[0]
        steps = [value for value in steps if round(value / step) % 2 == 0]
    x = Axis(min(*ends, steps[0]), max(*ends, steps[-1]), left, right)
    marks = []
    for place, row in enumerate(rows):
        y = row_height * (place + 0.5)
        low, high = (x(end if math.isfinite(end) else row.value) for end in (row.low, row.high))
        label = Label(0, y + 4, shortened(row.name, 27))
        marks.append(
            Mark(row.series, f"{row.name}: {row.text}", x(row.value), y, (low, y, high, y), label, 5, row.tone)
        )
    ticks = tuple(Tick(x(value), text) for value, text in zip(steps, _shown(steps), strict=True))
    return Chart(width, bottom + 24, left, right, 0, bottom, ticks, zero=x(0.0) if zero else None, marks=tuple(marks))


def width_of_names(names: Sequence[str]) -> float:
    """Width that `interval_chart` needs for names."""
    return min(180.0, 16 + 6.6 * max((len(name) for name in names), default=0))


def shortened(text: str, most: int) -> str:
    """The text, its end replaced by an ellipsis if it has more than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def spread(wanted: dict[int, float], floor: float) -> dict[int, float]:
    """Heights of labels as near as possible to the wanted ones, in the same order, a line apart, none below floor."""
    placed: dict[int, float] = {}
    for key, y in sorted(wanted.items(), key=lambda item: -item[1]):
        placed[key] = min(y, floor)
        floor = placed[key] - _LINE
    return placed


def beside(marks: Sequence[Mark], x: float, y: float, text: str, *, left: bool) -> Label:
    """A text left or right of the point (x, y) that covers none of the marks nor their texts, if there is room."""

    def span(at: float, words: str, leftwards: bool) -> tuple[float, float]:
        wide = 11 + 7.0 * len(words)
        return (at - wide, at - 9) if leftwards else (at + 9, at + wide)

    taken = [(mark.y, mark.x - 7, mark.x + 7) for mark in marks]
    for mark in marks:
        if mark.label:
            taken.append((mark.label.y - 4, *span(mark.x, mark.label.text, mark.label.anchor == "end")))
    low, high = span(x, text, left)
    shifts = (0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE, -3 * _LINE, 3 * _LINE)
    free = (s for s in shifts if not any(abs(y + s - at) < 14 and a < high and b > low for at, a, b in taken))
    return Label(x - 11 if left else x + 11, y + next(free, 0) + 4, text, "end" if left else "start")


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within ``[low, high]``, with steps of 1, 2 or 5 times a power of ten; about ``about`` of them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.05 * (abs(low) or 1.0), high + 0.05 * (abs(high) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (5, 2, 1, 0.5):
        step = factor * power
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        if last - first >= 2 or factor == 0.5:
            return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
    return [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within ``[low, high]`` (both above 0); powers alone if there were many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [v for p in powers for f in (1, 2, 5) if low <= (v := round(f * 10.0**p, 12)) <= high]
    return inside if len(inside) <= 7 else [v for v in inside if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]


def _shown(steps: Sequence[float]) -> list[str]:
    """The texts of a scale's steps, with as many decimals as tell them apart."""
    digits = _digits(steps)
    return [f"{value:.{digits}f}".replace("-", "−") for value in steps]


def _digits(steps: Sequence[float]) -> int:
    step = steps[1] - steps[0] if len(steps) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))
