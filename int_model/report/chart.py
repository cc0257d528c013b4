"""The running scores over the iterations as a drawing."""

from __future__ import annotations

from collections.abc import Sequence

from int_model.core.types import Trace
from int_model.html.charts import Axis, Chart, Label, Line, Mark, Tick, shortened, spread
from int_model.html.text import percent
from int_model.report.contrast import ScoreKey, shares

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 248, 48, 450, 14, 210
_LABELLED = 6


def running_scores(trace: Trace, key: ScoreKey) -> Chart | None:
    """The share of the running score of every view (or name) in every iteration; None if there is nothing to draw.

    Lines of one name share a colour; the winner comes last, so that it is drawn on top. A ring marks each leader.
    """
    iterations = [iteration for iteration in trace.iterations if iteration.log_scores.size]
    if not iterations or len({iteration.log_scores.shape for iteration in iterations}) != 1:
        return None
    values = [shares(iteration.log_scores) for iteration in iterations]
    count, last = values[0].size, iterations[-1]
    names = last.patch_names if key == "patch" else trace.names
    won = last.winner_patch if key == "patch" else _position(trace.names, last.winner_name)
    highest = max(float(v.max()) for v in values)
    x = Axis(0, len(values) - 1, _LEFT + 12, _RIGHT - 12)
    y = Axis(0, next((top for top in (0.2, 0.4, 0.6, 0.8) if highest <= top), 1.0), _BOTTOM, _TOP)
    points = [tuple((x(i), y(float(v[n]))) for i, v in enumerate(values)) for n in range(count)]
    heights = spread({n: points[n][-1][1] for n in _leading(values[-1].tolist(), won)}, _BOTTOM)
    series = {name: i for i, name in enumerate(dict.fromkeys(trace.names or names))}
    lines, marks = [], []
    for n in sorted(range(count), key=lambda n: (n == won, n)):
        name = names[n] if n < len(names) else ""
        text = f"{name} (view {n + 1})" if key == "patch" else name
        title = f"{text}: {', '.join(percent(float(v[n])) for v in values)}"
        tone, own = "winner" if n == won else "", series.get(name, 0)
        label, leader = None, None
        if n in heights:
            end_x, end_y = points[n][-1]
            label = Label(_RIGHT + 12, heights[n] + 4, shortened(text, 26))
            leader = (end_x + 4, end_y, _RIGHT + 8, heights[n])
        lines.append(Line(own, title, points[n], label, tone))
        for i, point in enumerate(points[n], 1):
            ends = leader if i == len(values) else None
            marks.append(Mark(own, title, *point, ends, radius=3.5 if tone else 2, tone="thin"))
    marks += [Mark(0, "leader", x(i), y(float(v.max())), radius=7, tone="ring") for i, v in enumerate(values)]
    return Chart(
        _WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM,
        x_ticks=tuple(Tick(x(i), str(step.index)) for i, step in enumerate(iterations)),
        y_ticks=y.ticks([y.high * i / 4 for i in range(5)], lambda share: f"{100 * share:g} %"),
        x_grid=False,
        x_title="iteration",
        lines=tuple(lines),
        marks=tuple(marks),
    )  # fmt: skip


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _leading(values: Sequence[float], won: int) -> list[int]:
    ranked = sorted(range(len(values)), key=lambda n: (n != won, -values[n]))
    return [n for n in ranked[:_LABELLED] if n == won or values[n] >= 0.02]
