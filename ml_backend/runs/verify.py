"""Does Label Studio still have what the ledger says was pushed? It has not after its database was restored, say."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs import rows
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.listing import PAGE, existing, look_at
from ml_backend.runs.rows import ANNOTATED, key_of
from ml_backend.runs.types import Run, RunState, TaskState
from ml_backend.storage.database import Database

REASON = "its prediction is gone from Label Studio (runs verify)"


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found of a run's predictions.

    Attributes:
        there: how many tasks have theirs.
        missing: tasks that have none, though the ledger says so.
        doubled: tasks that seem to have several of the run's version.
        deleted: how many tasks are gone themselves.
        looked: how many tasks were looked at.
    """

    there: int = 0
    missing: tuple[int, ...] = ()
    doubled: tuple[int, ...] = ()
    deleted: int = 0
    looked: int = 0


class Verifying:
    """Compares one run with Label Studio, and mends what differs. Blocking.

    Args:
        client: Label Studio.
        ledger: where the run is.
        database: of the ledger.
    """

    def __init__(self, client: LabelStudioClient, ledger: Ledger, database: Database) -> None:
        self._client = client
        self._ledger = ledger
        self._database = database

    def compare(self, run_id: str, progress: Callable[[Compared], None] = lambda _: None) -> Compared:
        """Look at every task that the ledger calls done or abstained; no regions are fetched.

        Raises:
            UnknownRunError: there is no such run.
            LabelStudioError: Label Studio refuses, or is away.
        """
        run, found = self._ledger.get(run_id), Compared()
        for state in ANNOTATED:
            after = 0
            while records := self._ledger.records(run_id, state, after, PAGE):
                after = records[-1].task
                found = self._page(run, [record.task for record in records], found)
                progress(found)
        return found

    def remove_doubles(self, run_id: str, tasks: Collection[int]) -> int:
        """Delete all but the oldest prediction of the run's version on each task; how many. Raises like `compare`."""
        spec, count = self._ledger.get(run_id).spec, 0
        for _, *surplus in existing(self._client, spec.project, tasks, spec.model_version).values():
            for one in surplus:
                try:
                    self._client.delete_prediction(one.id)
                    count += 1
                except LabelStudioError as error:
                    if error.status != 404:  # a worker that is at the run removed it
                        raise
        return count

    def mark_missing(self, run_id: str, tasks: Collection[int]) -> int:
        """Let the ledger call these tasks failed, so that ``retry`` does them again; how many it did.

        Raises:
            LedgerError: the run is at work; it cannot be said then which tasks are behind.
        """
        if self._ledger.get(run_id).state in (RunState.PREPARING, RunState.ACTIVE):
            raise LedgerError(f"run {run_id} is under way; verify it again when it has ended, or cancel it first")
        with self._database.write() as connection:
            return rows.withdraw(connection, key_of(run_id), tasks, TaskState.FAILED, REASON)

    def _page(self, run: Run, tasks: list[int], so_far: Compared) -> Compared:
        views = look_at(self._client, run.spec.project, tasks, run.spec.model_version)
        missing = tuple(task for task in tasks if task in views and not views[task].predicted)
        return Compared(
            so_far.there + sum(view.predicted for view in views.values()),
            so_far.missing + missing,
            so_far.doubled + tuple(task for task in tasks if task in views and views[task].several),
            so_far.deleted + len(tasks) - len(views),
            so_far.looked + len(tasks),
        )
