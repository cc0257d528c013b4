"""Models that note what an engine asks of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation, Trace
from int_model.interactive.clicks import ClickSegmenter
from ml_backend.serving.queue import ImageQueue, Priority
from tests.support.fakes import FakeSegmenter
from tests.support.queueing import submit

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


class WithClicks(Recorder):
    """A recorder that takes clicks; the click work here never touches the segmenter."""

    def __init__(self) -> None:
        super().__init__()
        self.clicks = ClickSegmenter(FakeSegmenter())


A, B = TaskPrompt("a"), TaskPrompt("b")


def hold(queue: ImageQueue, recorder: Recorder) -> None:
    """Occupy the worker with one image (value 0)."""
    submit(queue, image(0), A, Priority.INTERACTIVE)
    assert recorder.started.wait(WAIT)
