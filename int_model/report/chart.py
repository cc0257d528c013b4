"""A small line chart as numbers: the running scores over the iterations, ready to be drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from int_model.core.types import Trace
from int_model.report.contrast import ScoreKey, shares

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 190, 14, 30
_GAP = 15  # between two labels, in units of the drawing
_LABELLED = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One proposal: its points, whether it won in the end, and where its label stands (None: it has none)."""

    label: str
    points: tuple[tuple[float, float], ...]
    values: tuple[float, ...]
    series: int
    winner: bool
    label_y: float | None

    @property
    def path(self) -> str:
        """The ``points`` attribute of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines, ticks of both axes as (position, text), and per iteration the leader's point."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    leaders: tuple[tuple[float, float], ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def running_scores(trace: Trace, key: ScoreKey) -> Chart | None:
    """The share of the running score of every view (or name) in every iteration; None if there is nothing to draw.

    Lines of one name share a colour (``series``); the winner comes last, so that it is drawn on top.
    """
    iterations = [iteration for iteration in trace.iterations if iteration.log_scores.size]
    if not iterations or len({iteration.log_scores.shape for iteration in iterations}) != 1:
        return None
    values = [shares(iteration.log_scores) for iteration in iterations]
    count, last = values[0].size, iterations[-1]
    names = last.patch_names if key == "patch" else trace.names
    won = last.winner_patch if key == "patch" else _position(trace.names, last.winner_name)
    xs = [_x(i, len(values)) for i in range(len(values))]
    ceiling = _ceiling(max(float(v.max()) for v in values))
    points = [tuple((x, _y(float(v[n]) / ceiling)) for x, v in zip(xs, values, strict=True)) for n in range(count)]
    labels = _spread({n: points[n][-1][1] for n in _leading(values[-1].tolist(), won)})
    series = {name: i for i, name in enumerate(dict.fromkeys(trace.names or names))}
    lines = [
        Line(
            label=_label(n, names, key),
            points=points[n],
            values=tuple(float(v[n]) for v in values),
            series=series.get(names[n] if n < len(names) else "", 0),
            winner=n == won,
            label_y=labels.get(n),
        )
        for n in sorted(range(count), key=lambda n: (n == won, n))
    ]
    leaders = tuple((x, _y(float(v.max()) / ceiling)) for x, v in zip(xs, values, strict=True))
    x_ticks = tuple((x, str(iteration.index)) for x, iteration in zip(xs, iterations, strict=True))
    y_ticks = tuple((_y(i / 4), f"{100 * ceiling * i / 4:g} %") for i in range(5))
    return Chart(tuple(lines), x_ticks, y_ticks, leaders)


def _ceiling(highest: float) -> float:
    """The top of the scale: the smallest round share that is not below the highest."""
    return next((top for top in (0.2, 0.4, 0.6, 0.8) if highest <= top), 1.0)


def _label(n: int, names: Sequence[str], key: ScoreKey) -> str:
    name = names[n] if n < len(names) else ""
    return f"{name} (view {n + 1})" if key == "patch" else name


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _x(i: int, count: int) -> float:
    width = WIDTH - _LEFT - _RIGHT
    return _LEFT + (width / 2 if count == 1 else 12 + (width - 24) * i / (count - 1))


def _y(value: float) -> float:
    return _TOP + (1 - value) * (HEIGHT - _TOP - _BOTTOM)


def _leading(values: Sequence[float], won: int) -> list[int]:
    ranked = sorted(range(len(values)), key=lambda n: (n != won, -values[n]))
    return [n for n in ranked[:_LABELLED] if n == won or values[n] >= 0.02]


def _spread(wanted: dict[int, float]) -> dict[int, float]:
    """Label heights as near as possible to the wanted ones, in the same order, at least ``_GAP`` apart."""
    placed: dict[int, float] = {}
    floor = float(HEIGHT - _BOTTOM)
    for n, y in sorted(wanted.items(), key=lambda item: -item[1]):
        placed[n] = min(y, floor)
        floor = placed[n] - _GAP
    return placed
