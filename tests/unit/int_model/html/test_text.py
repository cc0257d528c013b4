"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from int_model.html.text import counted, duration, number, percent, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.2, "0 s"), (89, "89 s"), (90, "2 min"), (600, "10 min"), (7200, "2.0 h"), (360_000, "4.2 days")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_are_written_for_readers() -> None:
    assert number(-0.1234, 3) == "−0.123"
    assert number(-0.0001, 3) == "0.000"
    assert number(0.5, 1, sign=True) == "+0.5"
    assert number(None) == number(math.nan) == "–"


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "0 %"), (0.004, "< 1 %"), (0.5, "50 %"), (0.994, "> 99 %"), (1.0, "100 %"), (math.nan, "– %")],
)
def test_percentages_do_not_round_to_nothing_or_all(part: float, text: str) -> None:
    assert percent(part) == text


def test_counts_have_their_noun() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(2, "box", "boxes") == "2 boxes"
    assert (significant(0.00123), significant(math.inf)) == ("0.0012", "–")
