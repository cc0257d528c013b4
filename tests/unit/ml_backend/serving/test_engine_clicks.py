from __future__ import annotations

import numpy as np
import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.interactive.clicks import ClickSegmenter
from int_model.interactive.prompts import ClickPrompt
from int_model.strategies.model_options import ModelOptions
from ml_backend.errors import EngineError
from ml_backend.serving.engine import Engine, TakesClicks
from ml_backend.serving.model_loading import Models
from ml_backend.serving.queue import ImageQueue, Priority
from tests.support.fakes import TASK, fake_suite, scene
from tests.support.queueing import submit
from tests.support.recorder import WAIT, A, Recorder, WithClicks, image


def test_clicks_overtake_everything_and_go_before_later_work(
    clicking: tuple[Engine, WithClicks], queue: ImageQueue
) -> None:
    engine, _ = clicking
    order: list[int] = []
    later = engine.click(lambda _: order.append(2), urgent=False)  # waits for the models
    first, second = engine.click(lambda _: order.append(0)), engine.click(lambda _: order.append(1))
    dropped = engine.click(lambda _: order.append(9))
    assert dropped.cancel()
    assert engine.status.clicks == 4
    images = [submit(queue, image(value), A, Priority.INTERACTIVE) for value in (1, 2)]
    engine.start()
    for future in (later, first, second):
        future.result(WAIT)  # while the strategy is held up
    assert order == [0, 1, 2]
    assert not any(future.done() for future in images)


def test_a_click_that_fails_fails_alone(clicking: tuple[Engine, WithClicks]) -> None:
    engine, _ = clicking
    engine.start()

    def fail(_: ClickSegmenter) -> None:
        raise RuntimeError("too\nlarge")

    with pytest.raises(EngineError, match="failed on this click: too large"):
        engine.click(fail).result(WAIT)
    assert engine.click(lambda _: 5).result(WAIT) == 5


def test_closing_fails_the_clicks_that_wait(clicking: tuple[Engine, WithClicks]) -> None:
    engine, _ = clicking
    waiting = engine.click(lambda _: 1)
    engine.close(WAIT)
    with pytest.raises(EngineError, match="shutting down"):
        waiting.result(WAIT)
    with pytest.raises(EngineError, match="shutting down"):
        engine.click(lambda _: 1)


def test_a_click_makes_failed_models_load_again(queue: ImageQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    models, attempts = WithClicks(), []

    def load() -> WithClicks:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("no weights here")
        return models

    engine = Engine(load, queue)
    future = engine.click(lambda _: 1)
    engine.start()
    with pytest.raises(EngineError, match="no weights here"):
        future.result(WAIT)
    with pytest.raises(EngineError, match="no weights here"):
        engine.click(lambda _: 1)
    monkeypatch.setattr("ml_backend.serving.engine._RELOAD_AFTER", 0.0)
    assert engine.click(lambda _: 2).result(WAIT) == 2
    engine.close(WAIT)


def test_models_that_take_no_clicks_say_so(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    recorder.gate.set()
    submit(queue, image(1), A).result(WAIT)
    with pytest.raises(EngineError, match="take no clicks"):
        engine.click(lambda _: 1)


def test_a_suite_serves_batches_and_clicks_with_one_segmenter() -> None:
    picture, (mask,) = scene(objects=[("frog", 40, 50, 20)])
    suite = fake_suite()
    models = Models.of(suite, ModelOptions(strategy="grounded_sam"), 1 << 24)
    assert isinstance(models, TakesClicks)
    (result,) = models.segment([picture], TaskPrompt(TASK))
    assert result.instances
    prompt = ClickPrompt(np.array([[40.0, 50.0]]), np.array([1]))
    (found,) = models.clicks.answer("digest", picture, prompt, "Frog")
    assert (found.mask & mask).sum() > 0.9 * mask.sum()
    assert suite.segmenter.encoded == 2  # type: ignore[attr-defined]
