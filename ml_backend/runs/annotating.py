"""Annotating one task of a run, however long Label Studio or the models are away."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ml_backend.backoff import Backoff
from ml_backend.fetching.images import FetchError
from ml_backend.labelstudio.wire import TaskIn
from ml_backend.runs.calls import WorkEndedError
from ml_backend.serving.engine import BusyError, EngineError
from ml_backend.serving.plan import Plan
from ml_backend.serving.service import Answer, Service

_FETCHES = 4
_AWAY = 1.0
_MODELS_REST = 30.0


class RunStopError(Exception):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class PatientService:
    """`Service.annotate` for runs.

    Attributes:
        service: annotates.
        until_there: returns once Label Studio answers.
        sleep: waits so many seconds.
        stopping: whether the process is told to stop.
        alone: whether models that cannot be loaded stop the run, as no other worker has any.
    """

    service: Service
    until_there: Callable[[], Awaitable[Any]]
    sleep: Callable[[float], Awaitable[None]]
    stopping: Callable[[], bool]
    alone: bool

    async def annotate(self, task: TaskIn, plan: Plan) -> Answer:
        """The answer.

        Raises:
            ConfigError, EngineError, FetchError, ImageError, PromptError: this task cannot be annotated.
            RunStopError: the models cannot be loaded.
            WorkEndedError: the run is over, or the process is told to stop.
        """
        tries = 0
        busy, fetching = Backoff(1.0, 8.0), Backoff(1.0, 4.0)
        while not self.stopping():
            try:
                return await self.service.annotate(task, plan)
            except BusyError:
                await self.sleep(busy.delay())
            except EngineError:
                await self._models_gone()
                raise
            except FetchError as error:
                tries += 1
                if not error.transient or tries >= _FETCHES:
                    raise
                began = time.monotonic()
                await self.until_there()
                if time.monotonic() - began > _AWAY:
                    tries = 0  # Label Studio was away: that was no try
                    fetching.reset()
                await self.sleep(fetching.delay())
        raise WorkEndedError

    async def _models_gone(self) -> None:
        """Return if it is this image's fault."""
        engine = self.service.engine.status
        if self.stopping() or engine.state == "closed":
            raise WorkEndedError from None
        if engine.state != "failed":
            return
        if self.alone:
            raise RunStopError(f"the models could not be loaded: {engine.why}") from None
        await self.sleep(_MODELS_REST)  # the engine tries to load them again; others can take this run meanwhile
        raise WorkEndedError from None
