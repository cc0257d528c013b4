from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation, Trace
from int_model.interactive.clicks import ClickSegmenter
from int_model.interactive.prompts import ClickPrompt
from int_model.models.protocols import Embedding
from int_model.strategies.base import Segments
from int_model.strategies.model_options import ModelOptions
from ml_backend.errors import BusyError, EngineError
from ml_backend.runs.training.turns import TrainingEndedError, Turns
from ml_backend.serving.engine import Engine, TakesClicks
from ml_backend.serving.model_loading import Models
from ml_backend.serving.queue import ImageQueue, Priority
from tests.support.fakes import TASK, FakeSegmenter, fake_suite, scene
from tests.support.queueing import make_queue, put, submit

WAIT = 20


def image(value: int) -> Image:
    return np.full((2, 2, 3), value, np.uint8)


class Recorder:
    """Notes the batches; images of value 13 raise, batches over ``limit`` run out of memory, ``gate`` holds it up."""

    def __init__(self, limit: int = 100) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.gate = threading.Event()
        self.started = threading.Event()
        self.limit = limit
        self.short = False

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.started.set()
        assert self.gate.wait(WAIT)
        values = [int(i[0, 0, 0]) for i in images]
        self.batches.append((task.text, values))
        if len(images) > self.limit:
            raise MemoryError("out of memory")
        if 13 in values:
            raise RuntimeError("bad\n image")
        results = [Segmentation((2, 2), task.text, (), v / 255, Trace("t", "s"), reason="r") for v in values]
        return results[:-1] if self.short else results


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def queue() -> ImageQueue:
    return make_queue(size=9)


@pytest.fixture
def engine(recorder: Recorder, queue: ImageQueue) -> Iterator[Engine]:
    engine = Engine(lambda: recorder, queue, micro_batch=3, linger=0.05)
    engine.start()
    yield engine
    recorder.gate.set()
    engine.close(WAIT)


A, B = TaskPrompt("a"), TaskPrompt("b")


def hold(queue: ImageQueue, recorder: Recorder) -> None:
    """Occupy the worker with one image (value 0)."""
    submit(queue, image(0), A, Priority.INTERACTIVE)
    assert recorder.started.wait(WAIT)


def test_order_and_micro_batches(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    hold(queue, recorder)
    futures = [submit(queue, image(v), A, Priority.BATCH) for v in (1, 2)]
    futures += [submit(queue, image(v), t, Priority.PREDICT) for v, t in ((3, A), (4, B), (5, A), (6, A), (7, A))]
    futures += [submit(queue, image(8), B, Priority.INTERACTIVE)]
    recorder.gate.set()
    assert [round(f.result(WAIT).score * 255) for f in futures] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert recorder.batches == [("a", [0]), ("b", [8]), ("a", [3, 5, 6]), ("b", [4]), ("a", [7, 1, 2])]


def test_one_bad_image_fails_alone(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    hold(queue, recorder)
    futures = [submit(queue, image(v), A) for v in (1, 13, 2)]
    recorder.gate.set()
    assert futures[0].result(WAIT).score == pytest.approx(1 / 255)
    assert futures[2].result(WAIT).score == pytest.approx(2 / 255)
    with pytest.raises(EngineError, match="bad image"):
        futures[1].result(WAIT)


def test_a_batch_that_is_too_large_is_done_one_by_one(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    recorder.limit = 1
    hold(queue, recorder)
    futures = [submit(queue, image(v), A) for v in (1, 2, 3)]
    recorder.gate.set()
    assert [round(f.result(WAIT).score * 255) for f in futures] == [1, 2, 3]


def test_a_strategy_that_loses_a_result_is_an_error(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    recorder.short = True
    recorder.gate.set()
    with pytest.raises(EngineError, match="0 results for 1 images"):
        submit(queue, image(1), A).result(WAIT)


def test_a_full_queue_refuses_all_but_interactive_work(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    hold(queue, recorder)
    for value in range(8):
        submit(queue, image(value), A)
    with pytest.raises(BusyError, match="9 images"):
        submit(queue, image(9), A)
    late = submit(queue, image(9), A, Priority.INTERACTIVE)
    recorder.gate.set()
    assert late.result(WAIT)


def test_cancelled_work_is_not_done(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    hold(queue, recorder)
    unwanted, other = put(queue, image(5), A), submit(queue, image(6), A)
    for waiter in list(unwanted.waiters):
        queue.leave(waiter)
    assert unwanted.segmentation.cancelled()
    recorder.gate.set()
    assert other.result(WAIT)
    assert all(5 not in values for _, values in recorder.batches)


def test_loading_is_in_the_background_and_visible(queue: ImageQueue, recorder: Recorder) -> None:
    release = threading.Event()

    def load() -> Recorder:
        assert release.wait(WAIT)
        return recorder

    engine = Engine(load, queue)
    assert engine.status.state == "idle"
    engine.start()
    engine.start()
    assert engine.status.state == "loading"
    future = submit(queue, image(1), A)
    assert engine.status.waiting == 1
    recorder.gate.set()
    release.set()
    assert future.result(WAIT)
    assert engine.status.state == "ready"
    engine.close(WAIT)
    assert engine.status.state == "closed"
    with pytest.raises(EngineError, match="shutting down"):
        engine.check()


def test_failed_loading_says_why_and_is_tried_again_later(
    queue: ImageQueue, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def load() -> Recorder:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("no weights\nhere")
        return recorder

    recorder.gate.set()
    engine = Engine(load, queue)
    future = submit(queue, image(1), A)
    engine.start()
    with pytest.raises(EngineError, match="no weights here"):
        future.result(WAIT)
    assert (engine.status.state, engine.status.why) == ("failed", "no weights here")
    with pytest.raises(EngineError, match="no weights here"):
        engine.check()
    monkeypatch.setattr("ml_backend.serving.engine._RELOAD_AFTER", 0.0)
    engine.check()
    assert submit(queue, image(1), A).result(WAIT)
    assert engine.status.state == "ready"
    engine.close(WAIT)


def test_closing_finishes_what_is_at_work_and_fails_what_waits(queue: ImageQueue, recorder: Recorder) -> None:
    engine = Engine(lambda: recorder, queue, micro_batch=1)
    engine.start()
    first = submit(queue, image(1), A)
    assert recorder.started.wait(WAIT)
    second = submit(queue, image(2), A)
    closing = threading.Thread(target=engine.close, args=(WAIT,))
    closing.start()
    with pytest.raises((EngineError, CancelledError), match="shutting down"):
        second.result(WAIT)
    recorder.gate.set()
    assert first.result(WAIT)
    closing.join(WAIT)
    assert not closing.is_alive()


def test_nothing_is_lost_under_many_threads(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    recorder.gate.set()
    done: list[float] = []

    def work(seed: int) -> None:
        for value in range(20, 40):
            while True:
                try:
                    future = submit(queue, image(value), A if seed % 2 else B, Priority(seed % 3))
                    break
                except BusyError:
                    time.sleep(0.002)
            done.append(future.result(WAIT).score)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(done) == 180
    assert sum(len(values) for _, values in recorder.batches) == 180


# --- clicks -----------------------------------------------------------------------------------------------------------


class WithClicks(Recorder):
    """A recorder that takes clicks; the click work here never touches the segmenter."""

    def __init__(self) -> None:
        super().__init__()
        self.clicks = ClickSegmenter(FakeSegmenter())


@pytest.fixture
def clicking(queue: ImageQueue) -> Iterator[tuple[Engine, WithClicks]]:
    models = WithClicks()
    engine = Engine(lambda: models, queue, micro_batch=1)
    yield engine, models
    models.gate.set()
    engine.close(WAIT)


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


class Ways:
    """Models with strategies; notes which one was asked for which images."""

    def __init__(self) -> None:
        self.own, self.other = Recorder(), Recorder()
        self.own.gate.set()
        self.other.gate.set()

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        return self.own.segment(images, task)

    def of_strategy(self, name: str) -> Recorder:
        if name != "other":
            raise ValueError(f"there is no strategy '{name}'")
        return self.other


def test_images_share_a_batch_only_with_the_same_strategy(queue: ImageQueue) -> None:
    ways = Ways()
    engine = Engine(lambda: ways, queue, micro_batch=4)
    futures = [submit(queue, image(v), A, strategy=s) for v, s in ((1, ""), (2, "other"), (3, ""), (4, "other"))]
    unknown = submit(queue, image(5), A, strategy="none")
    engine.start()
    assert [round(f.result(WAIT).score * 255) for f in futures] == [1, 2, 3, 4]
    assert (ways.own.batches, ways.other.batches) == ([("a", [1, 3])], [("a", [2, 4])])
    with pytest.raises(EngineError, match="there is no strategy 'none'"):
        unknown.result(WAIT)
    engine.close(WAIT)


def test_models_of_one_strategy_refuse_another(engine: Engine, queue: ImageQueue, recorder: Recorder) -> None:
    recorder.gate.set()
    with pytest.raises(EngineError, match="remove model_strategy='other'"):
        submit(queue, image(1), A, strategy="other").result(WAIT)


def test_one_suite_serves_all_strategies() -> None:
    picture, (mask,) = scene(objects=[("frog", 40, 50, 20)])
    models = Models.of(fake_suite(), ModelOptions(), 1 << 24)
    other = models.of_strategy("grounded_sam")
    assert other is models.of_strategy("grounded_sam")
    assert models.of_strategy("int") is models.strategy
    (result,) = other.segment([picture], TaskPrompt(TASK))
    assert result.trace.strategy == "grounded_sam"
    assert (result.instances[0].mask & mask).sum() > 0.9 * mask.sum()
    with pytest.raises(ValueError, match="no strategy 'x'; choose one of: int"):
        models.of_strategy("x")


def test_another_strategy_takes_of_the_options_what_it_has() -> None:
    """They were given for the service's strategy; a project's ``model_strategy`` must not fail for them."""
    options = ModelOptions(preset="fast", changes={"iterations.count": 2, "abstain.min_score": 1.0})
    models = Models.of(fake_suite(), options, 1 << 24)
    picture, _ = scene(objects=[("frog", 40, 50, 20)])
    task = TaskPrompt(TASK)
    assert len(models.segment([picture], task)[0].trace.iterations) == 2
    (result,) = models.of_strategy("vlm_box").segment([picture], task)
    assert result.instances == ()
    assert "below 1.00" in result.reason


# --- training steps ---------------------------------------------------------------------------------------------------

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


# --- turns ------------------------------------------------------------------------------------------------------------


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
