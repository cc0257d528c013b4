"""What ``/predict`` has to do with runs: it leaves tasks to the run that has them, and hands over what it cannot do."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from sqlalchemy import select

from ml_backend.runs.errors import LedgerError
from ml_backend.runs.manager import Runs, RunsError
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.types import RunKind, RunState, TaskState
from ml_backend.storage.database import Database, StoreError
from ml_backend.storage.tables import RunRow, TaskRow

_log = logging.getLogger(__name__)
_PART = 500
_UNDER_WAY = (RunState.PREPARING.value, RunState.ACTIVE.value)
_PUSHED = frozenset({TaskState.LEASED, TaskState.DONE, TaskState.ABSTAINED})
_TAKEN = _PUSHED | {TaskState.PENDING}


class PredictRuns:
    """`ml_backend.serving.predictions.LateTasks` over the ledger. Blocking.

    Args:
        database: the ledger's.
        runs: makes runs.
    """

    def __init__(self, database: Database, runs: Runs) -> None:
        self._database = database
        self._runs = runs

    def taken(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those of the tasks that a run of that version under way does, or did; an answer could come on top of it."""
        return self._in_run(project, version, tasks, _TAKEN)

    def pushed(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those that such a run is at, or has done; what only waits, the run leaves alone once it is answered."""
        return self._in_run(project, version, tasks, _PUSHED)

    def take(self, project: str, label_config: str, extra_params: Any, tasks: Collection[int]) -> bool:
        """Hand tasks over to a run; whether that was possible."""
        if not project.isdecimal():
            return False
        try:
            run = self._runs.hand_over(int(project), label_config, extra_params, tasks)
        except QueueError as error:
            _log.warning("%s", error)
            return True
        except (LedgerError, RunsError, StoreError, ValueError) as error:
            _log.warning("project %s: the tasks that were not ready in time could not become a run: %s", project, error)
            return False
        _log.info("project %s: run %s does %d tasks that were not ready in time", project, run.id, len(tasks))
        return True

    def _in_run(
        self, project: str, version: str, tasks: Collection[int], states: Collection[TaskState]
    ) -> frozenset[int]:
        if not project.isdecimal():
            return frozenset()
        under_way = select(RunRow.id).where(
            RunRow.project == int(project),
            RunRow.kind == RunKind.PREDICT.value,
            RunRow.model_version == version,
            RunRow.state.in_(_UNDER_WAY),
        )
        ordered = sorted(tasks)
        try:
            with self._database.read() as connection:
                run = connection.scalar(under_way)
                if run is None:
                    return frozenset()
                found: set[int] = set()
                for start in range(0, len(ordered), _PART):
                    part = ordered[start : start + _PART]
                    rows = select(TaskRow.task).where(
                        TaskRow.run == run, TaskRow.task.in_(part), TaskRow.state.in_([s.value for s in states])
                    )
                    found.update(connection.scalars(rows))
        except StoreError as error:
            _log.warning("the ledger of runs: %s", error)
            return frozenset()
        return frozenset(found)
