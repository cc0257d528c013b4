"""Engines over models that note what they are asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ml_backend.serving.engine import Engine
from ml_backend.serving.queue import ImageQueue
from tests.support.queueing import make_queue
from tests.support.recorder import WAIT, Recorder, WithClicks


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


@pytest.fixture
def clicking(queue: ImageQueue) -> Iterator[tuple[Engine, WithClicks]]:
    models = WithClicks()
    engine = Engine(lambda: models, queue, micro_batch=1)
    yield engine, models
    models.gate.set()
    engine.close(WAIT)
