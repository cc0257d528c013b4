"""A training's turns at an engine that is a stand-in: taken, handed back, and ended, without waiting for any clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.errors import EngineError
from ml_backend.runs.training import turns as module
from ml_backend.runs.training.turns import TrainingEndedError, Turns
from tests.support.waiting import until


class Lender:
    """Lends itself at once in a thread, as an idle engine does; or never, where ``grants`` is off."""

    def __init__(self) -> None:
        self.clicking = False
        self.grants = True
        self.refuses: EngineError | None = None
        self.lent = 0
        self.back = 0
        self.asked: list[Future[None]] = []

    def lease(self, work: Callable[[object], None]) -> Future[None]:
        if self.refuses:
            raise self.refuses
        future: Future[None] = Future()
        self.asked.append(future)
        if self.grants:
            self.lent += 1
            threading.Thread(target=self._lend, args=(work, future), daemon=True).start()
        return future

    def _lend(self, work: Callable[[object], None], future: Future[None]) -> None:
        future.set_running_or_notify_cancel()
        work(None)
        self.back += 1
        future.set_result(None)


@pytest.fixture
def lender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lender]:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    made = Lender()
    yield made
    until(lambda: made.back == made.lent, "every turn was handed back")


def turns(lender: Any, ended: Callable[[], bool] = lambda: False) -> Turns:
    return Turns(lender, ended)


def test_a_turn_lasts_until_the_block_ends_however_it_ends(lender: Lender) -> None:
    with turns(lender).held():
        assert (lender.lent, lender.back) == (1, 0)
    until(lambda: lender.back == 1)

    def fail() -> None:
        with turns(lender).held():
            raise ValueError("memory")

    with pytest.raises(ValueError, match="memory"):
        fail()
    until(lambda: lender.back == 2)


@pytest.mark.parametrize(("seconds", "lent"), [(1000.0, 1), (0.0, 3)])
def test_between_two_steps_a_turn_goes_back_only_when_its_time_is_over(
    lender: Lender, monkeypatch: pytest.MonkeyPatch, seconds: float, lent: int
) -> None:
    monkeypatch.setattr(module, "SLICE", seconds)
    held = turns(lender)
    with held.held():
        held.pause()
        held.pause()
        assert lender.lent == lent
        until(lambda: lender.back == lent - 1)


@pytest.mark.parametrize("ends", [False, True])
def test_a_click_is_waited_for_at_once_and_not_beyond_the_end(
    lender: Lender, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(module, "SLICE", 1000.0)
    slept: list[float] = []
    over = threading.Event()

    def sleep(seconds: float) -> None:
        assert lender.lent == 1, "no turn is asked for while somebody clicks"
        slept.append(seconds)
        if len(slept) == 3:
            if ends:
                over.set()
            else:
                lender.clicking = False

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    held = turns(lender, over.is_set)
    with pytest.raises(TrainingEndedError) if ends else nullcontext(), held.held():
        lender.clicking = True
        held.pause()
        assert lender.lent == 2
    assert len(slept) == 3
    assert max(slept) <= 0.05, "the training goes on soon after the click"


def test_others_are_let_in_while_the_training_needs_no_model(lender: Lender) -> None:
    held = turns(lender)
    with held.held():
        with held.aside():
            until(lambda: lender.back == 1)
            assert lender.lent == 1
        assert lender.lent == 2


def test_a_training_that_is_over_waits_for_no_turn(lender: Lender) -> None:
    lender.grants = False
    looks: list[int] = []

    def ended() -> bool:
        looks.append(1)
        return len(looks) > 3

    with pytest.raises(TrainingEndedError), turns(lender, ended).held():
        pytest.fail("there was no turn")
    assert lender.asked[0].cancelled()
    assert len(looks) == 4


def test_a_turn_that_comes_too_late_is_handed_back_at_once(lender: Lender) -> None:
    with pytest.raises(TrainingEndedError), turns(lender, lambda: True).held():
        pytest.fail("the training is over")
    assert lender.lent == 1


@pytest.mark.parametrize("when", ["asked", "waiting", "closed"])
def test_models_that_are_gone_end_the_training_with_the_reason(lender: Lender, when: str) -> None:
    error = EngineError("the engine is shutting down")
    lender.grants = False
    if when == "asked":
        lender.refuses = error
    else:

        def close() -> None:
            until(lambda: lender.asked)
            if when == "waiting":
                lender.asked[0].set_exception(error)
            else:
                lender.asked[0].set_result(None)

        threading.Thread(target=close, daemon=True).start()
    said = "the engine is closed" if when == "closed" else "shutting down"
    with pytest.raises(TrainingEndedError, match=said), turns(lender).held():
        pytest.fail("there are no models")
