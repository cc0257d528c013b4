"""Taking a run back: its predictions are deleted, except those that an annotation came from.

The ledger follows: a task whose prediction is gone becomes skipped, with the reason. So undoing can be repeated, goes
on where it was interrupted, and ``runs retry --skipped`` does the tasks again. What a restored database brought back
is deleted again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs import rows
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.rows import ANNOTATED, key_of
from ml_backend.runs.types import Run, RunState, TaskRecord, TaskState
from ml_backend.storage.database import Database

REASON = "its prediction was deleted (runs undo)"
_PAGE = 20
"""Tasks per request: they come with their whole results, and a mask may be as large as a photo."""

_BUSY = (RunState.PREPARING, RunState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Doomed:
    """The tasks of one page: the predictions to delete by task, tasks whose prediction stays, and ones without any."""

    predictions: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    kept: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many predictions are (or were) deleted, stay because a person used them, and were gone before."""

    deleted: int = 0
    kept: int = 0
    gone: int = 0

    def plus(self, page: Doomed) -> Tally:
        """With another page."""
        deleted = sum(map(len, page.predictions.values()))
        return Tally(self.deleted + deleted, self.kept + len(page.kept), self.gone + len(page.gone))


class Undoing:
    """Takes back one run. Blocking.

    Args:
        client: Label Studio.
        ledger: where the run is.
        database: of the ledger.
    """

    def __init__(self, client: LabelStudioClient, ledger: Ledger, database: Database) -> None:
        self._client = client
        self._ledger = ledger
        self._database = database

    def count(self, run_id: str) -> Tally:
        """What undoing would do now. Raises like `undo`."""
        tally = Tally()
        for page in self._pages(self._run(run_id)):
            tally = tally.plus(page)
        return tally

    def undo(self, run_id: str, progress: Callable[[Tally], None] = lambda _: None) -> Tally:
        """Delete the run's predictions and tell the ledger, page by page.

        Args:
            run_id: a run that hands out no tasks.
            progress: told after every page.

        Raises:
            LedgerError: the run is at work; cancel it first.
            UnknownRunError: there is no such run.
            LabelStudioError: Label Studio refuses, or is away. What is deleted by then is in the ledger.
        """
        tally = Tally()
        for page in self._pages(self._run(run_id)):
            emptied = set(page.gone)
            try:
                for task, predictions in page.predictions.items():
                    for prediction in predictions:
                        self._delete(prediction)
                    emptied.add(task)
            finally:
                self._skip(run_id, emptied)
            tally = tally.plus(page)
            progress(tally)
        return tally

    def _run(self, run_id: str) -> Run:
        run = self._ledger.get(run_id)
        if run.state in _BUSY:
            raise LedgerError(f"run {run_id} is {run.state.value}; cancel it first: int-backend runs cancel {run_id}")
        return run

    def _pages(self, run: Run) -> Iterator[Doomed]:
        yield from self._come_back(run)  # first: what is undone now need not be looked at twice
        for state in ANNOTATED:
            after = 0
            while records := self._ledger.records(run.id, state, after, _PAGE):
                after = records[-1].task
                yield self._judged(run, records)

    def _come_back(self, run: Run) -> Iterator[Doomed]:
        """Tasks that were undone before: they have predictions again where Label Studio's database was restored."""
        after = 0
        while records := self._ledger.records(run.id, TaskState.SKIPPED, after, _PAGE):
            after = records[-1].task
            undone = [record for record in records if record.reason == REASON]
            if undone:
                yield replace(self._judged(run, undone), gone=frozenset())

    def _judged(self, run: Run, records: Collection[TaskRecord]) -> Doomed:
        wanted = {"selectedItems": {"all": False, "included": [record.task for record in records]}}
        found = self._client.tasks_page(run.spec.project, 1, _PAGE, query=wanted, whole=True)
        by_id = {row.get("id"): row for row in found}
        predictions, kept, gone = {}, set(), set()
        for record in records:
            row = by_id.get(record.task, {})
            own = _own(row, run.spec.model_version, record.prediction)
            if not own:
                gone.add(record.task)
            elif _drafted(row) or own & _used(row):
                kept.add(record.task)
            else:
                predictions[record.task] = tuple(sorted(own))
        return Doomed(predictions, frozenset(kept), frozenset(gone))

    def _delete(self, prediction: int) -> None:
        try:
            self._client.delete_prediction(prediction)
        except LabelStudioError as error:
            if error.status != 404:  # somebody deleted it a moment ago
                raise

    def _skip(self, run_id: str, tasks: Collection[int]) -> None:
        """Tell the ledger that these tasks have no prediction any more."""
        if tasks:
            with self._database.write() as connection:
                rows.withdraw(connection, key_of(run_id), tasks, TaskState.SKIPPED, REASON)


def _own(row: Mapping[str, Any], version: str, prediction: int | None) -> set[int]:
    """The task's predictions of the run's version; the one that the ledger knows, where it knows one."""
    listed = row.get("predictions")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    own = {int(entry["id"]) for entry in entries if entry.get("model_version") == version}
    # After a restored database other predictions may have that id: it counts only with the version.
    return own & {prediction} if prediction in own else own


def _used(row: Mapping[str, Any]) -> set[Any]:
    annotations = row.get("annotations")
    listed = annotations if isinstance(annotations, list) else []
    return {entry.get("parent_prediction") for entry in listed if isinstance(entry, Mapping)}


def _drafted(row: Mapping[str, Any]) -> bool:
    """Whether a person has begun to annotate the task: a draft does not tell which prediction it came from."""
    return bool(row.get("drafts")) or row.get("draft_exists") is True
