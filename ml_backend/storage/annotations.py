"""The annotations of people as the webhook brought them: for learning from them, and for counting what is new."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update

from ml_backend.labelstudio.annotation_events import DELETED_EVENTS, Annotation, changes_of, deleted_tasks
from ml_backend.labelstudio.wire import project_key
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import AnnotationRow, ClickRow, RunRow, TaskRow

_log = logging.getLogger(__name__)
_MAX_BYTES = 8 * 1024 * 1024
_PAGE = 200
_TIMES = ("created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Corrected:
    """Annotations that can be learned from: their ids, how many tasks they are of, and a digest that names them."""

    annotations: frozenset[int]
    tasks: int
    digest: str


class Annotations:
    """The newest version of every annotation. Blocking and safe between threads; every method may raise ``StoreError``.

    Events may come twice and in any order: an older version changes nothing, and what was deleted stays deleted, as
    Label Studio never gives an id again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, event: Mapping[str, Any]) -> None:
        """Take over what an event of ``ANNOTATION_EVENTS`` or ``DELETED_EVENTS`` says; the unreadable is logged."""
        project = project_key(event.get("project"))
        if not project.isdecimal():
            _log.warning("%s names no project; nothing is kept of it", event["action"])
            return
        if event["action"] in DELETED_EVENTS:
            self.forget_tasks(int(project), deleted_tasks(event))
            return
        changes = list(changes_of(event))
        if unreadable := changes.count(None):
            _log.warning("%s of project %s: %d entries are no annotations", event["action"], project, unreadable)
        self.upsert(int(project), [change for change in changes if isinstance(change, Annotation)])
        self.delete(int(project), [change for change in changes if isinstance(change, int)])

    def upsert(self, project: int, annotations: Iterable[Annotation]) -> None:
        """Keep annotations; those of which a newer version is known stay as they are.

        A result of more than 8 MB of JSON is not kept, only that there is such an annotation.
        """
        rows = [_row(project, annotation) for annotation in annotations]
        for start in range(0, len(rows), _PAGE):
            with self._database.write() as connection:
                for row in rows[start : start + _PAGE]:
                    older = AnnotationRow.deleted.is_(False) & (AnnotationRow.updated_at < row["updated_at"])
                    connection.execute(self._database.upsert(AnnotationRow, row, where=older))

    def delete(self, project: int, ids: Iterable[int]) -> None:
        """Forget annotations for good, known or not."""
        nothing = dict.fromkeys(("task", "result", "parent_prediction", "lead_time", "completed_by"))
        with self._database.write() as connection:
            for number in ids:
                row = {"project": project, "id": number, **nothing, "deleted": True, "received_at": epoch_now()}
                connection.execute(self._database.upsert(AnnotationRow, row))

    def forget_tasks(self, project: int, tasks: Collection[int] | None = None) -> None:
        """Forget the annotations of deleted tasks for good, or all of a deleted project, and the clicks on them."""
        nothing = dict.fromkeys(("task", "result", "parent_prediction", "lead_time", "completed_by"))
        gone = {**nothing, "model_version": "", "deleted": True, "received_at": epoch_now()}
        ordered = [None] if tasks is None else [sorted(tasks)[i : i + _PAGE] for i in range(0, len(tasks), _PAGE)]
        for part in ordered:
            mine = [AnnotationRow.project == project, AnnotationRow.deleted.is_(False)]
            clicked = [ClickRow.project == project]
            if part is not None:
                mine.append(AnnotationRow.task.in_(part))
                clicked.append(ClickRow.task.in_(part))
            with self._database.write() as connection:
                connection.execute(update(AnnotationRow).where(*mine).values(gone))
                connection.execute(delete(ClickRow).where(*clicked))

    def corrected(self, project: int) -> Corrected:
        """What can be learned from: annotations with a result that nobody skipped."""
        columns = (AnnotationRow.id, AnnotationRow.task, AnnotationRow.updated_at)
        kept = (AnnotationRow.project == project, AnnotationRow.deleted.is_(False))
        whole = (AnnotationRow.was_cancelled.is_(False), AnnotationRow.result.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(*kept, *whole).order_by(AnnotationRow.id)).all()
        text = "".join(f"{row.id} {row.updated_at:.6f}\n" for row in rows)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Corrected(frozenset(row.id for row in rows), len({row.task for row in rows}), digest)

    def of_project(self, project: int) -> Iterator[Annotation]:
        """A project's annotations by id, skipped tasks included; read in pages, so that no transaction lasts."""
        kept, last = (AnnotationRow.project == project, AnnotationRow.deleted.is_(False)), 0
        while True:
            page = select(AnnotationRow.__table__).where(*kept, AnnotationRow.id > last).order_by(AnnotationRow.id)
            with self._database.read() as connection:
                rows = connection.execute(page.limit(_PAGE)).mappings().all()
            for row in rows:
                result = None if row["result"] is None else json.loads(row["result"])
                times = {name: datetime.fromtimestamp(row[name], UTC) for name in _TIMES}
                yield Annotation.model_construct(**{**row, "result": result, **times})
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]

    def count(self, project: int, since: datetime | None = None) -> int:
        """How many annotations a project has, skipped tasks included; or how many came or changed after ``since``."""
        wanted = select(func.count()).where(AnnotationRow.project == project, AnnotationRow.deleted.is_(False))
        if since is not None:
            wanted = wanted.where(AnnotationRow.received_at > since.timestamp())
        with self._database.read() as connection:
            return connection.scalar(wanted) or 0


def _row(project: int, annotation: Annotation) -> dict[str, Any]:
    result: str | None = json.dumps(annotation.result, separators=(",", ":"))
    if result is not None and len(result) > _MAX_BYTES:
        text = "the results of annotation %d of project %d are not kept: they have %d bytes, and the most is %d"
        _log.warning(text, annotation.id, project, len(result), _MAX_BYTES)
        result = None
    return {
        **annotation.model_dump(exclude={"result"}),
        **{name: getattr(annotation, name).timestamp() for name in _TIMES},
        "project": project,
        "result": result,
        "model_version": annotation.model_version or _pushed_version(project, annotation),
        "received_at": epoch_now(),
    }


def _pushed_version(project: int, annotation: Annotation) -> ColumnElement[str]:
    """The version of the prediction that the person began with, if a run pushed it; else ""."""
    pushed = (
        select(RunRow.model_version)
        .join(TaskRow, TaskRow.run == RunRow.id)
        .where(RunRow.project == project, TaskRow.task == annotation.task)
        .where(TaskRow.prediction == annotation.parent_prediction)
        .limit(1)
    )
    return func.coalesce(pushed.scalar_subquery(), "")
