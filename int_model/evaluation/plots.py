"""Geometry of the report's drawings: positions in SVG units, nothing about colours or words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from int_model.evaluation.metrics import METRICS
from int_model.evaluation.records import Record
from int_model.evaluation.result import Difference, Summary

ROW = 24
WIDTH = 380

MOST_NAMED = 6
"""With more variants the points of a drawing bear numbers."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the scale: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Whisker:
    """One row: middle, both ends, height, and the series (variant) that it belongs to."""

    series: int
    label: str
    x: float
    low: float
    high: float
    y: float
    text: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure's values side by side, each with its interval."""

    title: str
    better: str
    height: float
    left: float
    right: float
    ticks: tuple[Tick, ...]
    rows: tuple[Whisker, ...]
    zero: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A curve as SVG points."""

    series: int
    label: str
    points: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point with its vertical interval."""

    series: int
    label: str
    x: float
    y: float
    low: float
    high: float
    anchor: str
    text: str
    text_y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of ``width`` x ``height`` with its frame, scales and either curves or dots."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()


def figure_panel(metric: str, rows: Sequence[Summary], label_width: float) -> Panel | None:
    """One metric of every variant; None if no variant has it."""
    known = [(i, row, row.figures[metric]) for i, row in enumerate(rows) if metric in row.figures]
    known = [(i, row, f) for i, row, f in known if math.isfinite(f.value)]
    if not known:
        return None
    ends = [v for _, _, f in known for v in (f.value, f.low, f.high) if math.isfinite(v)]
    scale, ticks, left, right = _scale(ends, label_width)
    digits = METRICS[metric].digits
    whiskers = []
    for place, (i, row, f) in enumerate(known):
        low, high = (f.low if math.isfinite(f.low) else f.value), (f.high if math.isfinite(f.high) else f.value)
        text = f"{f.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        whiskers.append(Whisker(i, row.variant, scale(f.value), scale(low), scale(high), ROW * (place + 0.5), text))
    return Panel(
        METRICS[metric].label, METRICS[metric].better, ROW * len(known), left, right, tuple(ticks), tuple(whiskers)
    )


def pair_label(variant: str, baseline: str, single: str) -> str:
    """A comparison's name; ``single`` is the baseline that all have, which then need not be said."""
    return variant if single else f"{variant} − {baseline}"


def difference_panel(
    metric: str, gaps: Sequence[Difference], order: Sequence[str], label_width: float, single: str
) -> Panel | None:
    """Paired differences in one metric, with the line of zero; None if there are none."""
    own = [gap for gap in gaps if gap.metric == metric and math.isfinite(gap.interval.low)]
    if not own:
        return None
    ends = [v for gap in own for v in (gap.interval.low, gap.interval.high)]
    scale, ticks, left, right = _scale([*ends, 0.0], label_width)
    digits = METRICS[metric].digits
    rows = tuple(
        Whisker(
            order.index(gap.variant),
            pair_label(gap.variant, gap.baseline, single),
            scale(gap.interval.value),
            scale(gap.interval.low),
            scale(gap.interval.high),
            ROW * (place + 0.5),
            f"{gap.interval.value:+.{digits}f} ({gap.interval.low:+.{digits}f} to {gap.interval.high:+.{digits}f})",
            gap.verdict,
        )
        for place, gap in enumerate(own)
    )
    return Panel(
        METRICS[metric].label, METRICS[metric].better, ROW * len(own), left, right, tuple(ticks), rows, scale(0.0)
    )


def cost_chart(rows: Sequence[Summary], metric: str) -> Chart | None:
    """A metric over seconds per image (logarithmic); None with fewer than two variants that have both."""
    known = [
        (i, row, row.figures["seconds"].value, row.figures[metric])
        for i, row in enumerate(rows)
        if metric in row.figures and "seconds" in row.figures and row.figures["seconds"].value > 0
    ]
    known = [item for item in known if math.isfinite(item[3].value)]
    if len(known) < 2:
        return None
    left, right, top, bottom = 52.0, 560.0, 16.0, 280.0
    logs = [math.log10(seconds) for _, _, seconds, _ in known]
    x_low, x_high = min(logs) - 0.15, max(logs) + 0.15
    ends = [v for *_, f in known for v in (f.low, f.high, f.value) if math.isfinite(v)]
    y_steps = nice_ticks(min(ends), max(ends))
    y_low, y_high = min(min(ends), y_steps[0]), max(max(ends), y_steps[-1])
    span = (y_high - y_low) or 1.0

    def x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - y_low) / span * (bottom - top)

    dots: list[Dot] = []
    for i, row, seconds, f in known:
        at, middle = x(math.log10(seconds)), y(f.value)
        low, high = (y(v) if math.isfinite(v) else middle for v in (f.low, f.high))
        text = row.variant if len(known) <= MOST_NAMED else str(i + 1)
        anchor = "end" if at > (left + right) / 2 else "start"
        dots.append(
            Dot(i, row.variant, at, middle, low, high, anchor, text, _free_height(dots, at, middle, anchor, text))
        )
    digits = METRICS[metric].digits - 1
    x_ticks = tuple(Tick(x(math.log10(v)), f"{v:g}") for v in _log_ticks(10**x_low, 10**x_high))
    y_ticks = tuple(Tick(y(v), f"{v:.{max(1, digits)}f}") for v in y_steps)
    return Chart(600, 320, left, right, top, bottom, x_ticks, y_ticks, dots=tuple(dots))


def _free_height(others: Sequence[Dot], x: float, y: float, anchor: str, text: str) -> float:
    """Where a point's text covers none of those before it nor their points: at its height, or a line or more off."""

    def span(at: float, side: str, words: str) -> tuple[float, float]:
        wide = 11 + 7.0 * len(words)
        return (at - wide, at - 9) if side == "end" else (at + 9, at + wide)

    low, high = span(x, anchor, text)
    for shift in (0, -15, 15, -30, 30, -45, 45):
        height = y + shift
        if not any(
            abs(height - line) < 14 and a < high and b > low
            for other in others
            for line, (a, b) in (
                (other.text_y, span(other.x, other.anchor, other.text)),
                (other.y, (other.x - 7, other.x + 7)),
            )
        ):
            return height
    return y


def share_chart(records: Sequence[Record], order: Sequence[str], metric: str = "iou") -> Chart:
    """For every variant, the part of its results whose IoU is at least x."""
    left, right, top, bottom = 52.0, 560.0, 16.0, 280.0
    lines = []
    for i, name in enumerate(order):
        values = sorted(
            float(value)
            for record in records
            if record.variant == name and record.done and (value := record.metrics.get(metric)) is not None
        )
        if not values:
            continue
        steps = [(0.0, 1.0)]
        for j, value in enumerate(values):
            steps += [(value, steps[-1][1]), (value, 1 - (j + 1) / len(values))]
        if len(values) > 200:
            steps = steps[:: max(1, len(steps) // 400)] + steps[-1:]
        points = " ".join(f"{left + a * (right - left):.1f},{bottom - b * (bottom - top):.1f}" for a, b in steps)
        lines.append(Line(i, name, points))
    grid = [i / 5 for i in range(6)]
    return Chart(
        600,
        320,
        left,
        right,
        top,
        bottom,
        tuple(Tick(left + v * (right - left), f"{v:.1f}") for v in grid),
        tuple(Tick(bottom - v * (bottom - top), f"{100 * v:.0f} %") for v in grid),
        lines=tuple(lines),
    )


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
            return [round(i * step, 12) for i in range(first, last + 1)]
    return [low, high]


def label_space(names: Mapping[str, object] | Sequence[str]) -> float:
    """Width of the names' column, in SVG units."""
    return min(190.0, 16 + 6.6 * max((len(name) for name in names), default=0))


def _scale(ends: Sequence[float], label_width: float) -> tuple[Callable[[float], float], list[Tick], float, float]:
    left, right = label_width, WIDTH - 14.0
    steps = nice_ticks(min(ends), max(ends))
    for about in (3, 2, 1):
        if len(steps) * (_digits(steps) + 3) * 7.5 > right - left:
            steps = nice_ticks(min(ends), max(ends), about)
    low, high = min(min(ends), steps[0]), max(max(ends), steps[-1])
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return left + (value - low) / span * (right - left)

    digits = _digits(steps)
    return place, [Tick(place(v), f"{v:.{digits}f}".replace("-", "−")) for v in steps], left, right


def _digits(steps: Sequence[float]) -> int:
    step = steps[1] - steps[0] if len(steps) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    steps = [
        f * 10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for f in (1, 2, 5)
    ]
    inside = [round(v, 12) for v in steps if low <= v <= high]
    return inside if len(inside) <= 7 else [v for v in inside if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]
