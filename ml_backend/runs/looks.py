"""What Label Studio has of a run's predictions. A second one on a task is removed wherever it is seen."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.calls import LabelStudioCalls
from ml_backend.runs.listing import Existing, counted, existing

_log = logging.getLogger(__name__)


class Looks:
    """Looks for the predictions of one version in one project. Of several on a task the oldest stays.

    Args:
        client: without retries of its own.
        calls: makes them, and waits while Label Studio is away.
        project: the project's id.
        version: the model version.

    Every method may raise ``LabelStudioError`` (refused for good) and ``WorkEndedError`` (waiting is of no use).
    """

    def __init__(self, client: LabelStudioClient, calls: LabelStudioCalls, project: int, version: str) -> None:
        self._client = client
        self._calls = calls
        self._project = project
        self._version = version

    async def whole(self, tasks: Collection[int]) -> dict[int, Existing]:
        """The prediction of each task that has one; Label Studio sends the regions of all with it."""
        found = await self._calls.call(existing, self._client, self._project, tasks, self._version)
        for task, (_, *surplus) in found.items():
            for one in surplus:
                _log.warning("task %d had a second prediction of %s; removing it", task, self._version)
                await self._remove(one.id)
        return {task: entries[0] for task, entries in found.items()}

    async def light(self, tasks: Collection[int]) -> frozenset[int]:
        """The tasks that have a prediction; regions are fetched only where there seem to be several."""
        counts = await self._calls.call(counted, self._client, self._project, tasks, self._version)
        await self.whole([task for task, several in counts.items() if several])
        return frozenset(counts)

    async def _remove(self, prediction: int) -> None:
        try:
            await self._calls.call(self._client.delete_prediction, prediction)
        except LabelStudioError as error:
            if error.status != 404:  # another worker removed it
                _log.warning("%s", error)
