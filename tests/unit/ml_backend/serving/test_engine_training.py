from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from int_model.core.types import Image
from int_model.interactive.prompts import ClickPrompt
from int_model.models.protocols import Embedding
from int_model.strategies.base import Segments
from int_model.strategies.model_options import ModelOptions
from ml_backend.errors import EngineError
from ml_backend.runs.training.turns import TrainingEndedError, Turns
from ml_backend.serving.engine import Engine
from ml_backend.serving.model_loading import Models
from ml_backend.serving.queue import ImageQueue
from tests.support.fakes import FakeSegmenter, fake_suite, scene
from tests.support.queueing import submit
from tests.support.recorder import WAIT, A, Recorder, WithClicks, image

STEP = 0.02


def test_training_steps_run_between_predictions_and_hold_up_no_click(
    clicking: tuple[Engine, WithClicks], queue: ImageQueue
) -> None:
    engine, models = clicking
    models.gate.set()
    engine.start()
    engine.click(lambda _: None).result(WAIT)
    lent: list[int] = []

    def step(number: int) -> Callable[[Segments], int]:
        def work(borrowed: Segments) -> int:
            assert borrowed is models
            time.sleep(STEP)
            lent.append(number)
            return number

        return work

    steps = [engine.lease(step(number)) for number in range(200)]
    clicks: list[float] = []
    images: list[tuple[int, int]] = []
    for _ in range(20):
        asked = time.monotonic()
        engine.click(lambda _: None).result(WAIT)
        clicks.append(time.monotonic() - asked)
        before = len(lent)
        submit(queue, image(1), A).result(WAIT)
        images.append((before, len(lent)))
        time.sleep(0.05)
    assert images[-1][1] < 200  # the steps were under way all the time
    assert all(after - before <= 2 for before, after in images)  # an image waits for the step at work, no more
    assert statistics.median(clicks) < STEP / 2
    assert [future.result(WAIT) for future in steps] == list(range(200)) == lent


class SlowSegmenter(FakeSegmenter):
    def encode(self, images: Sequence[Image]) -> list[Embedding]:
        time.sleep(STEP / 4)
        return super().encode(images)


def test_a_click_shares_the_segmenter_with_a_step_call_by_call(queue: ImageQueue) -> None:
    picture, _ = scene(objects=[("frog", 40, 50, 20)])
    models = Models.of(fake_suite(segmenter=SlowSegmenter()), ModelOptions(), 1 << 24)
    engine = Engine(lambda: models, queue)

    def step(_: Segments) -> float:
        began = time.monotonic()
        for _ in range(20):
            models.suite.segmenter.encode([picture])
        return time.monotonic() - began

    engine.start()
    prompt = ClickPrompt(np.array([[40.0, 50.0]]), np.array([1]))
    engine.click(lambda clicks: clicks.prewarm("key", picture)).result(WAIT)
    steps = [engine.lease(step) for _ in range(5)]
    took: list[float] = []
    while not steps[-1].done():
        asked = time.monotonic()
        assert engine.click(lambda clicks: clicks.answer("key", None, prompt)).result(WAIT)
        took.append(time.monotonic() - asked)
        time.sleep(STEP)
    assert len(took) >= 5
    assert statistics.median(took) < STEP / 2 < min(future.result(WAIT) for future in steps) / 10
    engine.close(WAIT)


def test_a_step_that_fails_fails_alone_and_one_that_is_cancelled_is_not_run(
    clicking: tuple[Engine, WithClicks], queue: ImageQueue
) -> None:
    engine, models = clicking
    ran: list[str] = []

    def fail(_: Segments) -> None:
        raise ZeroDivisionError("a bad step")

    failing, unwanted, good = engine.lease(fail), engine.lease(lambda _: ran.append("x")), engine.lease(lambda _: 5)
    assert unwanted.cancel()
    models.gate.set()
    engine.start()
    with pytest.raises(ZeroDivisionError, match="a bad step"):
        failing.result(WAIT)
    assert good.result(WAIT) == 5
    assert ran == []
    assert submit(queue, image(1), A).result(WAIT)


def test_a_step_that_keeps_the_models_too_long_is_told(
    clicking: tuple[Engine, WithClicks], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml_backend.serving.engine.LEASE_SECONDS", 0.0)
    engine, _ = clicking
    engine.start()
    engine.lease(lambda _: time.sleep(0.01)).result(WAIT)
    engine.lease(lambda _: None).result(WAIT)
    assert "cut it into smaller ones" in caplog.text


def test_closing_fails_the_steps_that_wait(clicking: tuple[Engine, WithClicks]) -> None:
    engine, _ = clicking
    waiting = engine.lease(lambda _: 1)
    engine.close(WAIT)
    with pytest.raises(EngineError, match="shutting down"):
        waiting.result(WAIT)
    with pytest.raises(EngineError, match="shutting down"):
        engine.lease(lambda _: 1)


def test_a_training_gets_its_share_while_images_wait(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    images = [submit(queue, image(value), A) for value in range(1, 10)]
    step = engine.lease(lambda _: sum(future.done() for future in images))
    recorder.gate.set()
    assert step.result(WAIT) < 9, "it did not wait for the last image"
    for future in images:
        future.result(WAIT)


def test_a_training_hands_its_turn_back_to_images_and_clicks(
    clicking: tuple[Engine, WithClicks], queue: ImageQueue
) -> None:
    engine, models = clicking
    models.gate.set()
    engine.start()
    turns, let_in = Turns(engine, lambda: False), []
    with turns.held():
        waiting = submit(queue, image(1), A)
        time.sleep(2 * STEP)
        assert not waiting.done(), "the turn is the training's"
        limit = time.monotonic() + WAIT
        while not waiting.done():
            assert time.monotonic() < limit
            turns.pause()
            time.sleep(STEP / 10)
        held_up = threading.Event()
        click = engine.click(lambda _: held_up.wait(WAIT))
        while not engine.clicking:
            time.sleep(0.001)
        threading.Timer(STEP, lambda: (let_in.append(1), held_up.set())).start()
        turns.pause()
        assert let_in == [1], "it waited for the click"
        assert click.result(WAIT)
        with turns.aside():
            submit(queue, image(2), A).result(WAIT)


def test_a_training_ends_where_it_is_told_to(engine: Engine, recorder: Recorder) -> None:
    recorder.gate.set()
    over = threading.Event()
    turns = Turns(engine, over.is_set)

    def train() -> None:
        with turns.held():
            over.set()
            while True:
                turns.pause()
                time.sleep(STEP)

    with pytest.raises(TrainingEndedError):
        train()
    engine.close(WAIT)
    with pytest.raises(TrainingEndedError, match="shutting down"), Turns(engine, lambda: False).held():
        pass
