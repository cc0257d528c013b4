"""A training's thread takes turns with predictions, and steps aside for clicks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ml_backend.errors import EngineError
from ml_backend.serving.engine import Engine

SLICE = 0.1
"""Seconds after which a turn is handed back at the next pause."""

_LOOK = 0.25  # seconds between looks whether the training is to end
_CLICK_REST = 0.005


class TrainingEndedError(Exception):
    """The training is to end here: the process stops, the run is over, or the models are gone."""


class Turns:
    """Lends the engine to one thread, a slice of time at a time; see `ml_backend.serving.engine.Engine.lease`.

    Args:
        engine: owns the models.
        ended: whether the training is to end.
    """

    def __init__(self, engine: Engine, ended: Callable[[], bool]) -> None:
        self._engine = engine
        self._ended = ended
        self._back: threading.Event | None = None
        self._until = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """From the first turn on, until the block ends. Raises ``TrainingEndedError``."""
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let others in for as long as the block runs, which needs no model. Raises ``TrainingEndedError``."""
        self._give()
        yield
        self._take()

    def pause(self) -> None:
        """Between two pieces of work: let others in if the slice is over or a click waits.

        Raises:
            TrainingEndedError: the training is to end.
        """
        if time.monotonic() < self._until and not self._engine.clicking:
            return
        self._give()
        while self._engine.clicking and not self._ended():
            time.sleep(_CLICK_REST)
        self._take()

    def _take(self) -> None:
        granted, back = threading.Event(), threading.Event()

        def turn(_models: object) -> None:
            granted.set()
            back.wait()

        try:
            future = self._engine.lease(turn)
        except EngineError as error:
            raise TrainingEndedError(str(error)) from error
        while not granted.wait(_LOOK):
            if self._ended() and future.cancel():
                raise TrainingEndedError
            if future.done() and not granted.is_set():
                raise TrainingEndedError(str(future.exception() or "the engine is closed"))
        self._back, self._until = back, time.monotonic() + SLICE
        if self._ended():
            self._give()
            raise TrainingEndedError

    def _give(self) -> None:
        if self._back is not None:
            self._back.set()
            self._back = None
