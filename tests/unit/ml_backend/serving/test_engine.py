from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.strategies.model_options import ModelOptions
from ml_backend.errors import BusyError, EngineError
from ml_backend.serving.engine import Engine
from ml_backend.serving.model_loading import Models
from ml_backend.serving.queue import ImageQueue, Priority
from tests.support.fakes import TASK, fake_suite, scene
from tests.support.queueing import put, submit
from tests.support.recorder import WAIT, A, B, Recorder, hold, image


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


class InStages(Recorder):
    """A recorder whose batches have three stages, with a break after each; ``reached`` and ``go`` are for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.reached, self.go = threading.Event(), threading.Event()
        self.work: Callable[[], None] = lambda: None
        self.begun: list[str] = []

    def on_break(self, work: Callable[[], None]) -> None:
        self.work = work

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.begun.append(task.text)
        for _ in range(3):
            if not self.reached.is_set():
                self.reached.set()
                assert self.go.wait(WAIT)
            self.work()
        return super().segment(images, task)


@pytest.fixture
def staged(queue: ImageQueue) -> Iterator[tuple[Engine, InStages]]:
    models = InStages()
    engine = Engine(lambda: models, queue, micro_batch=3)
    engine.start()
    yield engine, models
    models.go.set()
    engine.close(WAIT)


def test_more_urgent_images_go_between_the_stages_of_a_batch(
    staged: tuple[Engine, InStages], queue: ImageQueue
) -> None:
    engine, models = staged
    run = [submit(queue, image(value), A, Priority.BATCH) for value in (1, 2)]
    assert models.reached.wait(WAIT)
    opened = [submit(queue, image(value), B, Priority.PREDICT) for value in (3, 13)]
    typed = submit(queue, image(4), TaskPrompt("typed"), Priority.INTERACTIVE)
    late = submit(queue, image(5), TaskPrompt("late"), Priority.BATCH)
    assert engine.status.working > 0
    models.go.set()
    assert [future.result(WAIT).score for future in (*run, typed, late)] == [1 / 255, 2 / 255, 4 / 255, 5 / 255]
    assert opened[0].result(WAIT).score == 3 / 255
    with pytest.raises(EngineError, match="bad image"):
        opened[1].result(WAIT)  # it fails alone, also where it went in between
    order = [text for text, _ in models.batches]
    assert order[0] == "typed", "the most urgent goes first"
    assert order.index("b") < order.index("a") < order.index("late"), "neither is held up by what is less urgent"
    assert models.begun[0] == "a", "the batch that was interrupted had begun first, and was not begun again"
    assert models.begun.count("a") == 1
    assert engine.status.working == 0


def test_equally_urgent_images_wait_for_the_batch(staged: tuple[Engine, InStages], queue: ImageQueue) -> None:
    _, models = staged
    first = submit(queue, image(1), A, Priority.PREDICT)
    assert models.reached.wait(WAIT)
    others = [submit(queue, image(2), B, Priority.PREDICT), submit(queue, image(3), B, Priority.BATCH)]
    models.go.set()
    for future in (first, *others):
        future.result(WAIT)
    assert models.batches[0][0] == "a"


def test_every_strategy_and_version_has_breaks() -> None:
    models = Models.of(fake_suite(), ModelOptions(), 1 << 24)
    breaks: list[None] = []
    models.on_break(lambda: breaks.append(None))
    picture, _ = scene(objects=[("frog", 40, 50, 20)])
    for segments in (models, models.of_strategy("grounded_sam"), models.of_strategy("promac")):
        before = len(breaks)
        segments.segment([picture], TaskPrompt(TASK))
        assert len(breaks) - before > 1, "one in the end would be none"
