"""Events of Label Studio after which a project may learn."""

from __future__ import annotations

import asyncio
import logging

from ml_backend.labelstudio.annotation_events import ANNOTATION_EVENTS
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.manager import RunsError
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.training.start import Trainings
from ml_backend.serving.status import Status
from ml_backend.serving.tasks import Tasks
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_SETTLE = 1.0  # seconds in which further events of a project count as one


class LearningEvents:
    """Begins trainings after events; lives in the service's event loop.

    Args:
        trainings: begins them; None: the backend does not know Label Studio.
        status: is told why a training that somebody asked for was not begun.
    """

    def __init__(self, trainings: Trainings | None, status: Status) -> None:
        self._trainings = trainings
        self._status = status
        self._tasks = Tasks()

    def take(self, action: str, project: str) -> None:
        """Look whether a training is due after an event; returns at once.

        Args:
            action: of the event.
            project: Label Studio's id.
        """
        if self._trainings is None or not project.isdecimal():
            return
        if action == "START_TRAINING":
            self._tasks.start(self._asked(self._trainings, int(project)))
        elif action in ANNOTATION_EVENTS and self._tasks.get(project) is None:
            self._tasks.start(self._consider(self._trainings, int(project)), project)

    async def close(self) -> None:
        """Begin nothing more."""
        await self._tasks.close()

    async def _consider(self, trainings: Trainings, project: int) -> None:
        await asyncio.sleep(_SETTLE)
        try:
            await asyncio.to_thread(trainings.consider, project)
        except (LedgerError, QueueError, StoreError) as error:
            _log.warning("project %d: no training was begun: %s", project, error)

    async def _asked(self, trainings: Trainings, project: int) -> None:
        try:
            await asyncio.to_thread(trainings.start, project, "Start training")
        except (ConfigError, LedgerError, QueueError, RunsError, StoreError) as error:
            self._status.report(f"the training of project {project}", str(error))
