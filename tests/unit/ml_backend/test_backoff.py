from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from ml_backend.backoff import Backoff, retry_after


def test_the_bounds_grow_to_the_longest_and_begin_anew() -> None:
    backoff = Backoff(1.0, 30.0, draw=lambda: 1.0)
    assert [backoff.delay() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
    backoff.reset()
    assert [backoff.delay() for _ in range(2)] == [1, 2]


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=12))
def test_every_delay_is_drawn_below_its_bound(draws: list[float]) -> None:
    left = iter(draws)
    backoff = Backoff(0.5, 8.0, factor=3.0, draw=lambda: next(left))
    bounds = [min(0.5 * 3.0**n, 8.0) for n in range(len(draws))]
    assert [backoff.delay() for _ in draws] == pytest.approx([b * d for b, d in zip(bounds, draws, strict=True)])


def test_two_who_wait_do_not_come_back_together() -> None:
    assert len({Backoff().delay() for _ in range(20)}) == 20


class SlowDownError(Exception):
    def __init__(self, retry_after: float | None) -> None:
        self.retry_after = retry_after


def test_tenacity_waits_as_the_policy_says_or_as_it_was_asked() -> None:
    waits: list[float] = []
    errors = [SlowDownError(None), SlowDownError(7.0), SlowDownError(0.0), SlowDownError(None)]

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "there"

    retrying = Retrying(
        retry=retry_if_exception_type(SlowDownError),
        stop=stop_after_attempt(5),
        wait=Backoff(1.0, draw=lambda: 1.0),
        sleep=waits.append,
    )
    assert retrying(call) == "there"
    assert waits == [1.0, 7.0, 0.0, 8.0]


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("3", 3.0), ("999", 30.0), ("x", None), ("nan", None), ("-1", 0.0)]
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds
