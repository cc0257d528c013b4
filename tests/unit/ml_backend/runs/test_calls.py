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


def ledger_call(function: Callable[[], T]) -> T:
    async def main() -> T:
        calls = LedgerCalls()
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
