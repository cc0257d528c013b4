"""The annotations of people as the webhook brought them: what a project has learned from, and what is new."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select

from ml_backend.labelstudio.annotation_events import Annotation, parse_annotation_event
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import AnnotationRow, RunRow, TaskRow

_log = logging.getLogger(__name__)
_MAX_BYTES = 8 * 1024 * 1024
_PAGE = 200


class Annotations:
    """The newest version of every annotation. Blocking and safe between threads; every method may raise ``StoreError``.

    Events may come twice and in any order: an older version changes nothing, and what was deleted stays deleted, as
    Label Studio never gives an id again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, event: Mapping[str, Any]) -> None:
        """Take over what an event of ``ANNOTATION_EVENTS`` says; what cannot be read is logged."""
        found = parse_annotation_event(event)
        if found is None:
            _log.warning("%s names no project; nothing is kept of it", event["action"])
            return
        if found.unreadable:
            text = "%s of project %d: %d entries are no annotations"
            _log.warning(text, event["action"], found.project, found.unreadable)
        self.upsert(found.project, found.changed)
        self.delete(found.project, found.deleted)

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
        gone = {"task": None, "result": None, "prediction": None, "lead_time": None, "completed_by": None}
        with self._database.write() as connection:
            for number in ids:
                row = {"project": project, "id": number, **gone, "deleted": True, "received_at": epoch_now()}
                connection.execute(self._database.upsert(AnnotationRow, row))

    def of_project(self, project: int) -> Iterator[Annotation]:
        """A project's annotations by id, skipped tasks included; read in pages, so that no transaction lasts."""
        last = 0
        while True:
            page = (
                select(AnnotationRow.__table__)
                .where(AnnotationRow.project == project, AnnotationRow.id > last, AnnotationRow.deleted.is_(False))
                .order_by(AnnotationRow.id)
                .limit(_PAGE)
            )
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield Annotation(
                    id=row.id,
                    task=row.task,
                    result=None if row.result is None else json.loads(row.result),
                    prediction=row.prediction,
                    model_version=row.model_version,
                    lead_time=row.lead_time,
                    completed_by=row.completed_by,
                    skipped=row.skipped,
                    created_at=datetime.fromtimestamp(row.created_at, UTC),
                    updated_at=datetime.fromtimestamp(row.updated_at, UTC),
                )
            if len(rows) < _PAGE:
                return
            last = rows[-1].id

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
        _log.warning(
            "the results of annotation %d of project %d are not kept: they have %d bytes, and the most is %d",
            annotation.id,
            project,
            len(result),
            _MAX_BYTES,
        )
        result = None
    return {
        "project": project,
        "id": annotation.id,
        "task": annotation.task,
        "result": result,
        "prediction": annotation.prediction,
        "model_version": annotation.model_version or _pushed_version(project, annotation),
        "lead_time": annotation.lead_time,
        "completed_by": annotation.completed_by,
        "skipped": annotation.skipped,
        "created_at": annotation.created_at.timestamp(),
        "updated_at": annotation.updated_at.timestamp(),
        "received_at": epoch_now(),
    }


def _pushed_version(project: int, annotation: Annotation) -> ColumnElement[str]:
    """The version of the prediction that the person began with, if a run pushed it; else ""."""
    pushed = (
        select(RunRow.model_version)
        .join(TaskRow, TaskRow.run == RunRow.id)
        .where(RunRow.project == project, TaskRow.task == annotation.task)
        .where(TaskRow.prediction == annotation.prediction)
        .limit(1)
    )
    return func.coalesce(pushed.scalar_subquery(), "")
