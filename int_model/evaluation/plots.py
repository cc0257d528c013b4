"""The drawings of the evaluation's page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from int_model.evaluation.doubt import Doubt
from int_model.evaluation.metrics import METRICS
from int_model.evaluation.records import Record
from int_model.evaluation.result import Difference, Summary
from int_model.evaluation.statistics import Interval
from int_model.html.charts import Axis, Chart, IntervalRow, Line, Mark, beside, interval_chart, log_ticks, nice_ticks
from int_model.html.text import number

MOST_NAMED = 6
"""With more variants the points of a drawing bear numbers."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 300, 48, 466, 12, 262


def figure_chart(metric: str, rows: Sequence[Summary], name_width: float) -> Chart | None:
    """One metric of every variant; None if no variant has it."""
    known = [(i, row.variant, row.figures[metric]) for i, row in enumerate(rows) if metric in row.figures]
    shown = [_row(metric, *item) for item in known if math.isfinite(item[2].value)]
    return interval_chart(shown, name_width) if shown else None


def difference_chart(
    metric: str, gaps: Sequence[Difference], order: Sequence[str], name_width: float, baseline: str
) -> Chart | None:
    """Paired differences in one metric, with the line of zero; None if there are none."""
    shown = [
        _row(metric, order.index(gap.variant), pair_name(gap, baseline), gap.interval, gap.verdict, sign=True)
        for gap in gaps
        if gap.metric == metric and math.isfinite(gap.interval.low)
    ]
    return interval_chart(shown, name_width, zero=True) if shown else None


def pair_name(gap: Difference, baseline: str) -> str:
    """A comparison's name; with a ``baseline`` that all comparisons have, the variant's alone."""
    return gap.variant if baseline else f"{gap.variant} − {gap.baseline}"


def _row(metric: str, series: int, name: str, found: Interval, tone: str = "", *, sign: bool = False) -> IntervalRow:
    value, low, high = (number(v, METRICS[metric].digits, sign=sign) for v in (found.value, found.low, found.high))
    text = f"{value} ({low} to {high})" if math.isfinite(found.low) else value
    return IntervalRow(series, name, found.value, found.low, found.high, text, tone)


def cost_chart(rows: Sequence[Summary], metric: str) -> Chart | None:
    """A metric over seconds per image (logarithmic); None with fewer than two variants that have both."""
    known = [
        (i, row.variant, math.log10(row.figures["seconds"].value), row.figures[metric])
        for i, row in enumerate(rows)
        if metric in row.figures and "seconds" in row.figures and row.figures["seconds"].value > 0
    ]
    known = [item for item in known if math.isfinite(item[3].value)]
    if len(known) < 2:
        return None
    logs = [log for _, _, log, _ in known]
    x = Axis(min(logs) - 0.15, max(logs) + 0.15, _LEFT, _RIGHT)
    ends = [v for *_, f in known for v in (f.low, f.high, f.value) if math.isfinite(v)]
    steps = nice_ticks(min(ends), max(ends))
    y = Axis(min(*ends, steps[0]), max(*ends, steps[-1]), _BOTTOM, _TOP)
    marks: list[Mark] = []
    for i, name, log, figure in known:
        at, middle = x(log), y(figure.value)
        low, high = (y(v if math.isfinite(v) else figure.value) for v in (figure.low, figure.high))
        text = name if len(known) <= MOST_NAMED else str(i + 1)
        label = beside(marks, at, middle, text, left=at > (_LEFT + _RIGHT) / 2)
        marks.append(Mark(i, name, at, middle, (at, low, at, high), label, radius=6))
    digits = max(1, METRICS[metric].digits - 1)
    seconds = log_ticks(10**x.low, 10**x.high)
    return Chart(
        _WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM,
        x_ticks=x.ticks(map(math.log10, seconds), lambda log: f"{10**log:g}"),
        y_ticks=y.ticks(steps, lambda value: number(value, digits)),
        x_title="seconds per image (logarithmic)",
        marks=tuple(marks),
    )  # fmt: skip


def doubt_chart(doubt: Doubt) -> Chart:
    """Mean IoU over model calls for every threshold of ``auto``, with the one that fits."""
    calls, values = [point.calls for point in doubt.points], [point.iou for point in doubt.points]
    steps = nice_ticks(min(values) - 0.02, max(values) + 0.02)
    x = Axis(0, max(calls) * 1.05 or 1.0, _LEFT, _RIGHT)
    y = Axis(min(steps[0], *values), max(steps[-1], *values), _BOTTOM, _TOP)
    every = max(1, len(doubt.points) // 400)
    shown = (*doubt.points[::every], doubt.points[-1])
    line = Line(0, "auto, every threshold", tuple((x(point.calls), y(point.iou)) for point in shown))
    marks: list[Mark] = []
    named = (("never INT", doubt.points[0]), ("always INT", doubt.points[-1]))
    for text, point in (*named, (f"threshold {doubt.fitted.threshold:.2f}", doubt.fitted)):
        at, height = x(point.calls), y(point.iou)
        label = beside(marks, at, height, text, left=at > (_LEFT + _RIGHT) / 2)
        marks.append(Mark(len(marks), text, at, height, None, label, radius=6))
    return Chart(
        _WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM,
        x_ticks=x.ticks(nice_ticks(0, x.high)[:-1], lambda value: f"{value:g}"),
        y_ticks=y.ticks(steps, lambda value: number(value, 2)),
        x_title="model calls per image",
        lines=(line,),
        marks=tuple(marks),
    )  # fmt: skip


def share_chart(records: Sequence[Record], order: Sequence[str], metric: str = "iou") -> Chart:
    """For every variant, the part of its results whose IoU is at least x."""
    x, y = Axis(0, 1, _LEFT, _RIGHT), Axis(0, 1, _BOTTOM, _TOP)
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
        lines.append(Line(i, name, tuple((x(a), y(b)) for a, b in steps)))
    grid = [i / 5 for i in range(6)]
    return Chart(
        _WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM,
        x_ticks=x.ticks(grid, lambda value: f"{value:.1f}"),
        y_ticks=y.ticks(grid, lambda value: f"{100 * value:.0f} %"),
        x_title="IoU",
        lines=tuple(lines),
    )  # fmt: skip
