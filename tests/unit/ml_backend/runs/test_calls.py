"""Calls that wait: for Label Studio as long as it takes, for the ledger a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from ml_backend.backoff import Backoff
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.calls import LabelStudioCalls, LedgerCalls, WorkEndedError
from ml_backend.storage.database import StoreError

T = TypeVar("T")


class Away:
    """Fails so many times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        return "there"


class Waiting:
    """Calls whose waiting takes no time; ``waits`` are the delays."""

    def __init__(self, *, ended_after: int = 10**9) -> None:
        self.waits: list[float] = []
        self.ended_after = ended_after

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def ended(self) -> bool:
        return len(self.waits) >= self.ended_after

    def run(self, *functions: Callable[[], T]) -> list[T]:
        async def main() -> list[T]:
            with ThreadPoolExecutor(1) as threads:
                calls = LabelStudioCalls(
                    threads,
                    self.ended,
                    self.sleep,
                    clock=lambda: sum(self.waits),
                    backoff=lambda: Backoff(draw=lambda: 1.0),
                )
                return [await calls.call(function) for function in functions]

        return asyncio.run(main())


def test_delays_grow_and_the_log_says_so_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting()
    with caplog.at_level(logging.WARNING):
        assert waiting.run(Away(20, LabelStudioError("gone", 0))) == ["there"]
    assert waiting.waits == [1, 2, 4, 8, 16, *[30] * 15]
    assert [record.getMessage() for record in caplog.records] == [
        "gone; waiting for it",
        "still waiting for Label Studio, for 61 s now: gone",
        "still waiting for Label Studio, for 181 s now: gone",
        "still waiting for Label Studio, for 421 s now: gone",
        "Label Studio is back after 481 s",
    ]


def test_every_call_begins_with_the_first_delay() -> None:
    waiting = Waiting()
    waiting.run(Away(3, LabelStudioError("gone", 502)), Away(2, LabelStudioError("gone", 0)))
    assert waiting.waits == [1, 2, 4, 1, 2]


def test_label_studio_says_how_long_to_wait() -> None:
    waiting = Waiting()
    waiting.run(Away(2, LabelStudioError("slow down", 429, retry_after=7.5)))
    assert waiting.waits == [7.5, 7.5]


def test_waiting_ends_with_the_run_and_refusals_are_not_waited_for() -> None:
    with pytest.raises(WorkEndedError):
        Waiting(ended_after=3).run(Away(9, LabelStudioError("gone", 502)))
    with pytest.raises(LabelStudioError, match="no"):
        Waiting().run(Away(1, LabelStudioError("no", 403)))


def test_the_log_speaks_again_at_the_very_second(caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting()
    with caplog.at_level(logging.WARNING):
        waiting.run(Away(7, LabelStudioError("slow down", 429, retry_after=30)))
    assert caplog.messages == [
        "slow down; waiting for it",
        "still waiting for Label Studio, for 60 s now: slow down",
        "still waiting for Label Studio, for 180 s now: slow down",
        "Label Studio is back after 210 s",
    ]


def test_every_outage_is_told_from_its_own_beginning(caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting()
    with caplog.at_level(logging.WARNING):
        waiting.run(
            Away(2, LabelStudioError("gone", retry_after=50)), Away(2, LabelStudioError("gone", retry_after=70))
        )
    assert caplog.messages == [
        "gone; waiting for it",
        "Label Studio is back after 100 s",
        "gone; waiting for it",
        "still waiting for Label Studio, for 70 s now: gone",
        "Label Studio is back after 140 s",
    ]


def test_a_run_that_is_over_is_not_waited_for_at_all() -> None:
    waiting = Waiting(ended_after=0)
    with pytest.raises(WorkEndedError):
        waiting.run(Away(1, LabelStudioError("gone", 502)))
    assert waiting.waits == []


def ledger_call(function: Callable[[], T], ended: Callable[[], bool] = lambda: False) -> T:
    async def main() -> T:
        calls = LedgerCalls(ended)
        try:
            return await calls.call(function)
        finally:
            await calls.close()

    return asyncio.run(main())


def test_a_database_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.runs.calls._LEDGER_SECONDS", 2.0)
    assert ledger_call(Away(1, StoreError("away"))) == "there"
    away = Away(1000, StoreError("away"))
    with pytest.raises(StoreError, match="away"):
        ledger_call(away)
    assert 1 < 1000 - away.left < 100, "tried again, but not all the time"
    refused = Away(2, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        ledger_call(refused)
    assert refused.left == 1


def test_a_database_that_will_come_back_is_waited_for_longer_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml_backend.runs.calls._LEDGER_SECONDS", 0.0)
    monkeypatch.setattr("ml_backend.runs.calls.Backoff", lambda *_: Backoff(0.001, 0.001))
    with caplog.at_level(logging.WARNING):
        assert ledger_call(Away(20, StoreError("the server is away", transient=True))) == "there"
    first, last = caplog.messages
    assert first == "the server is away; waiting for it"
    assert last.startswith("the database is back after ")
    settings_are_wrong = Away(20, StoreError("wrong", transient=False))
    with pytest.raises(StoreError, match="wrong"):
        ledger_call(settings_are_wrong)
    assert settings_are_wrong.left == 19


def test_a_process_that_is_told_to_stop_waits_no_longer_for_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.runs.calls._LEDGER_SECONDS", 0.0)
    monkeypatch.setattr("ml_backend.runs.calls.Backoff", lambda *_: Backoff(0.001, 0.001))
    away = Away(1000, StoreError("away", transient=True))
    with pytest.raises(StoreError, match="away"):
        ledger_call(away, ended=lambda: away.left <= 990)
    assert away.left == 990


def test_a_database_with_wrong_settings_is_given_up_after_the_time_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ml_backend.runs.calls._LEDGER_SECONDS", 0.05)
    monkeypatch.setattr("ml_backend.runs.calls.Backoff", lambda *_: Backoff(0.01, 0.01, draw=lambda: 1.0))
    wrong = Away(1000, StoreError("wrong"))
    with pytest.raises(StoreError, match="wrong"):
        ledger_call(wrong)
    assert 1 < 1000 - wrong.left <= 6
