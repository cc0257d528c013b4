"""Running out of memory: what is tried, in which order, and who fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation, Trace
from int_model.interactive.prompts import ClickPrompt
from int_model.models.errors import TransientModelError
from int_model.models.memory import accelerator_memory
from int_model.runner.isolation import is_out_of_memory
from int_model.strategies.model_options import ModelOptions
from ml_backend.errors import EngineError, ModelsAwayError
from ml_backend.serving.engine import Engine
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.model_loading import Models
from ml_backend.serving.recovery import MemoryEvent, segment_each
from tests.support.fakes import TASK, FakeSegmenter, fake_suite, scene
from tests.support.queueing import make_queue, submit

WAIT = 20
PROMPT = TaskPrompt("a")


def image(value: int) -> Image:
    return np.full((2, 2, 3), value, np.uint8)


def cuda_full() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Cramped:
    """Has room for ``room`` images; value 9 is too large at any time, 13 broken. ``free_memory`` may make room."""

    def __init__(self, room: int, error: Callable[[], Exception] = cuda_full, gained: int = 0) -> None:
        self.room, self.error, self.gained = room, error, gained
        self.tried: list[list[int]] = []
        self.freed = 0
        self.events: list[MemoryEvent] = []

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        values = [int(i[0, 0, 0]) for i in images]
        self.tried.append(values)
        if len(values) > self.room or 9 in values:
            raise self.error()
        if 13 in values:
            raise RuntimeError("a bad image")
        return [Segmentation((2, 2), task.text, (), v / 255, Trace("t", "s"), reason="r") for v in values]

    def free_memory(self) -> None:
        self.freed += 1
        self.room += self.gained

    def outcomes(self, *values: int) -> list[int | str]:
        found = segment_each(self, [image(v) for v in values], PROMPT, on_memory=self.events.append)
        out: list[int | str] = [""] * len(values)
        for index, outcome in found:
            assert out[index] == ""
            out[index] = str(outcome) if isinstance(outcome, EngineError) else round(outcome.score * 255)
        return out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (cuda_full(), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("the prompt 'out of memory' is too long"), False),
        (KeyError("x"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_failures(error: Exception, *, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    wrapped = ValueError("wrapped by a strategy")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) is expected


def test_a_batch_that_does_not_fit_is_halved_and_stays_small() -> None:
    models = Cramped(room=3)
    assert models.outcomes(*range(20, 28)) == list(range(20, 28))
    assert [len(values) for values in models.tried] == [8, 4, 2, 2, 2, 2]
    assert (models.freed, models.events) == (2, ["retried"] * 2)


def test_emptying_the_caches_may_be_enough() -> None:
    models = Cramped(room=0, gained=1)
    assert models.outcomes(1) == [1]
    assert (models.tried, models.events) == ([[1], [1]], ["retried"])


def test_an_image_that_fits_nowhere_fails_alone_and_says_what_to_do() -> None:
    models = Cramped(room=4)
    first, large, bad, last = models.outcomes(1, 9, 13, 2)
    assert (first, last) == (1, 2)
    assert "not enough memory for this image, even alone" in str(large)
    assert "INT_OOM_FALLBACK=cpu" in str(large)
    assert bad == "the models failed on this image: a bad image"
    assert models.events == ["retried", "retried", "retried", "failed"]


class Away(Cramped):
    """A remote model that answers 503 so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(room=9)
        self.times = times

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.times -= 1
        if self.times >= 0:
            raise TransientModelError("the endpoint answered 503", retry_after=7.0)
        return super().segment(images, task)


def test_models_that_cannot_answer_now_fail_no_image() -> None:
    models, queue = Away(times=1), make_queue()
    engine = Engine(lambda: models, queue, micro_batch=4)
    futures = [submit(queue, image(v), PROMPT) for v in (1, 2, 3)]
    engine.start()
    for future in futures:
        with pytest.raises(ModelsAwayError, match="answered 503") as caught:
            future.result(WAIT)
        assert (caught.value.transient, caught.value.retry_after) == (True, 7.0)
    assert models.tried == []  # not one by one: the images are not to blame
    assert submit(queue, image(4), PROMPT).result(WAIT)
    engine.close(WAIT)


class WithTwin(Cramped):
    def __init__(self, twin: Cramped | Exception | None) -> None:
        super().__init__(room=4)
        self.twin = twin

    def on_cpu(self) -> Cramped | None:
        if isinstance(self.twin, Exception):
            raise self.twin
        return self.twin


class Roomy(Cramped):
    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.tried.append([int(i[0, 0, 0]) for i in images])
        return [Segmentation((2, 2), task.text, (), 1.0, Trace("t", "s"), reason="r") for _ in images]


@pytest.mark.parametrize(
    ("twin", "expected", "events"),
    [
        (Roomy(room=9), 255, ["retried", "cpu"]),
        (Cramped(room=9, error=MemoryError), "on the CPU it failed too: MemoryError", ["retried", "cpu", "failed"]),
        (RuntimeError("no weights"), "the CPU cannot take it: no weights", ["retried", "failed"]),
        (None, "set INT_OOM_FALLBACK=cpu", ["retried", "failed"]),
    ],
    ids=["fits", "too large for it too", "cannot be loaded", "switched off"],
)
def test_the_cpu_takes_what_the_accelerator_cannot(
    twin: Cramped | Exception | None, expected: int | str, events: list[MemoryEvent]
) -> None:
    models = WithTwin(twin)
    (outcome,) = models.outcomes(9)
    assert outcome == expected if isinstance(expected, int) else str(expected) in str(outcome)
    assert models.events == events


@given(
    values=st.lists(st.sampled_from([1, 2, 3, 9, 13]), max_size=12),
    room=st.integers(0, 6),
    error=st.sampled_from([cuda_full, MemoryError]),
)
def test_every_image_has_one_outcome_and_only_those_fail_that_must(
    values: list[int], room: int, error: Callable[[], Exception]
) -> None:
    models = Cramped(room, error)
    outcomes = models.outcomes(*values)
    for value, outcome in zip(values, outcomes, strict=True):
        assert outcome == value if room > 0 and value not in (9, 13) else isinstance(outcome, str)
        assert outcome
    assert len(models.tried) <= 4 * len(values) + 4


# --- engine, clicks, models -------------------------------------------------------------------------------------------


def test_the_engine_recovers_and_counts() -> None:
    models = Cramped(room=1)
    queue = make_queue()
    engine = Engine(lambda: models, queue, micro_batch=4)
    metrics = Metrics(engine)
    futures = [submit(queue, image(v), PROMPT) for v in (1, 2, 9, 3)]
    engine.start()
    assert [round(futures[i].result(WAIT).score * 255) for i in (0, 1, 3)] == [1, 2, 3]
    with pytest.raises(EngineError, match="even alone") as caught:
        futures[2].result(WAIT)
    assert caught.value.__context__ is None  # a traceback would hold on to the accelerator's memory
    assert engine.status.out_of_memory == {"retried": 3, "failed": 1}
    page = metrics.page().decode()
    assert 'int_out_of_memory_total{outcome="retried"} 3.0' in page
    assert 'int_out_of_memory_total{outcome="cpu"} 0.0' in page
    assert submit(queue, image(4), PROMPT).result(WAIT)
    engine.close(WAIT)


class FullSegmenter(FakeSegmenter):
    """Runs out of memory while it encodes, ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def encode(self, images: Sequence[Image]) -> list:  # type: ignore[type-arg]
        self.times -= 1
        if self.times >= 0:
            raise cuda_full()
        return super().encode(images)


@pytest.mark.parametrize("times", [1, 2])
def test_clicks_survive_a_full_accelerator(times: int) -> None:
    picture, (mask,) = scene(objects=[("frog", 40, 50, 20)])
    models = Models.of(fake_suite(segmenter=FullSegmenter(times)), ModelOptions(), 1 << 24)
    engine = Engine(lambda: models, make_queue())
    engine.start()
    prompt = ClickPrompt(np.array([[40.0, 50.0]]), np.array([1]))
    future = engine.click(lambda clicks: clicks.answer("key", picture, prompt))
    if times == 2:
        with pytest.raises(EngineError, match="not enough memory for it; try again when fewer images are at work"):
            future.result(WAIT)
        future = engine.click(lambda clicks: clicks.answer("key", picture, prompt))
    (found,) = future.result(WAIT)
    assert (found.mask & mask).sum() > 0.9 * mask.sum()
    expected = {"retried": 1} if times == 1 else {"retried": 1, "failed": 1}
    assert engine.status.out_of_memory == expected
    engine.close(WAIT)


def test_freeing_memory_forgets_encoded_images() -> None:
    picture, _ = scene(objects=[("frog", 40, 50, 20)])
    models = Models.of(fake_suite(), ModelOptions(), 1 << 24)
    models.clicks.prewarm("key", picture)
    assert len(models.clicks.cache) == 1
    models.free_memory()
    assert (len(models.clicks.cache), models.clicks.cache.currsize) == (0, 0)
    assert models.accelerator_memory() == accelerator_memory("cpu") == {}


def test_the_twin_is_loaded_once_and_only_off_the_cpu() -> None:
    loads: list[int] = []

    def load() -> object:
        loads.append(1)
        if len(loads) == 1:
            raise RuntimeError("no\nroom")
        return fake_suite()

    on_card = replace(fake_suite(), device="cuda")
    broken = Models.of(on_card, ModelOptions(), 1 << 24, load)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"cannot be loaded there \(no room\)"):
            broken.on_cpu()
    assert loads == [1]
    models = Models.of(on_card, ModelOptions(strategy="grounded_sam"), 1 << 24, load)  # type: ignore[arg-type]
    twin = models.on_cpu()
    assert twin is models.on_cpu()
    assert twin is not None
    assert twin.strategy.name == "grounded_sam"
    picture, (mask,) = scene(objects=[("frog", 40, 50, 20)])
    (result,) = twin.segment([picture], TaskPrompt(TASK))
    assert (result.instances[0].mask & mask).sum() > 0.9 * mask.sum()
    assert len(loads) == 2
    assert Models.of(fake_suite(), ModelOptions(), 1 << 24, load).on_cpu() is None  # type: ignore[arg-type]
    assert Models.of(on_card, ModelOptions(), 1 << 24).on_cpu() is None
