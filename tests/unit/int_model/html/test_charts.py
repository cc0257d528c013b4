"""Geometry of drawings: scales, ticks, labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.html.charts import Axis, IntervalRow, Mark, beside, interval_chart, log_ticks, nice_ticks, spread


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.8123, 0.8124), (-0.3, 0.2), (5, 5), (0, 0), (1 - 1e-16, 1), (1e-9, 3e-9), (120, 98_000)],
)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(ticks)
    if high > low + 1e-12:
        span = high - low
        assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)


def test_an_axis_maps_its_ends_and_a_single_value_to_the_middle() -> None:
    axis = Axis(2, 4, 100, 0)
    assert [axis(value) for value in (2, 3, 4)] == [100, 50, 0]
    assert Axis(5, 5, 0, 10)(5) == 5
    assert [(tick.at, tick.text) for tick in axis.ticks([2, 4], str)] == [(100, "2"), (0, "4")]


numbers = st.floats(-1e4, 1e4)


@given(st.lists(st.tuples(numbers, st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=8), st.booleans())
def test_intervals_lie_inside_their_drawing(values: list[tuple[float, float, float]], zero: bool) -> None:
    rows = [IntervalRow(i, f"row {i}", v, v - a, v + b, "text") for i, (v, a, b) in enumerate(values)]
    drawing = interval_chart(rows, 100, zero=zero)
    assert len(drawing.marks) == len(rows)
    for mark in drawing.marks:
        assert mark.ends is not None
        low, _, high, _ = mark.ends
        assert drawing.left - 1e-6 <= low <= mark.x + 1e-6 <= high + 2e-6 <= drawing.right + 3e-6
        assert drawing.top < mark.y < drawing.bottom
    assert all(drawing.left - 1e-6 <= tick.at <= drawing.right + 1e-6 for tick in drawing.x_ticks)
    texts = sum(len(tick.text) for tick in drawing.x_ticks)
    assert texts * 6.6 < drawing.right - drawing.left or len(drawing.x_ticks) <= 2
    assert (drawing.zero is not None) is zero


def test_an_interval_that_is_not_known_shows_the_value_alone() -> None:
    (mark,) = interval_chart([IntervalRow(0, "a name", 0.5, float("nan"), float("nan"), "0.5")], 80).marks
    assert mark.ends == (mark.x, mark.y, mark.x, mark.y)
    assert mark.title == "a name: 0.5"


def test_labels_keep_a_line_of_distance_and_do_not_cover_points() -> None:
    placed = spread({1: 100.0, 2: 99.0, 3: 20.0}, 90.0)
    assert placed == {1: 90.0, 2: 75.0, 3: 20.0}
    marks: list[Mark] = []
    for x in (100.0, 104.0, 108.0):
        label = beside(marks, x, 50.0, "a name", left=False)
        assert all(mark.label is not None and abs(mark.label.y - label.y) >= 14 for mark in marks)
        marks.append(Mark(0, "t", x, 50.0, label=label))
    assert beside([], 100.0, 50.0, "x", left=True).anchor == "end"


def test_ticks_of_a_logarithmic_scale() -> None:
    assert log_ticks(0.9, 11) == [1, 2, 5, 10]
    assert log_ticks(0.9, 11_000) == [1, 10, 100, 1000, 10_000]
