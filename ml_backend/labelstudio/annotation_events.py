"""Annotations in the events of Label Studio's webhooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_backend.labelstudio.wire import clean_text, project_key

ANNOTATION_EVENTS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "ANNOTATIONS_DELETED"}
)
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a person drew on a task.

    Attributes:
        id: unique in its project.
        task: the task's id.
        result: the regions as Label Studio has them; None where they were too large to keep.
        prediction: id of the prediction that the person began with, or None.
        model_version: of that prediction, or "" where it is not known.
        lead_time: seconds that the person took, or None.
        completed_by: id of the person, or None.
        skipped: the person skipped the task.
        created_at, updated_at: by Label Studio's clock.
    """

    id: int
    task: int
    result: list[Any] | None
    prediction: int | None
    model_version: str
    lead_time: float | None
    completed_by: int | None
    skipped: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AnnotationEvent:
    """What an event says about the annotations of a project.

    Attributes:
        project: its id.
        changed: annotations that were created or updated.
        deleted: ids of those that were deleted.
        unreadable: how many entries are none.
    """

    project: int
    changed: tuple[Annotation, ...]
    deleted: tuple[int, ...]
    unreadable: int


def parse_annotation_event(event: Mapping[str, Any]) -> AnnotationEvent | None:
    """Read an event of `ANNOTATION_EVENTS`; None if it does not say which project it is about.

    Label Studio 1.23 sends one annotation, or a list of them, under ``annotation``, and those that were deleted as
    ``{"id": 1}`` under ``annotations``.
    """
    key = project_key(event.get("project"))
    if not key.isdecimal():
        return None
    entries: list[Any] = []
    for name in ("annotation", "annotations"):
        found = event.get(name)
        entries += found if isinstance(found, list) else [found] if found is not None else []
    if str(event["action"]).endswith("_DELETED"):
        ids = [_id(entry) for entry in entries]
        deleted = tuple(number for number in ids if number is not None)
        return AnnotationEvent(int(key), (), deleted, len(ids) - len(deleted))
    read = [_annotation(entry) for entry in entries]
    changed = tuple(annotation for annotation in read if annotation is not None)
    return AnnotationEvent(int(key), changed, (), len(read) - len(changed))


def _annotation(entry: Any) -> Annotation | None:
    if not isinstance(entry, Mapping):
        return None
    number, task, result = _id(entry), _id(entry.get("task")), entry.get("result")
    if number is None or task is None or not isinstance(result, list):
        return None
    origin, seconds = entry.get("prediction"), entry.get("lead_time")
    updated = _time(entry.get("updated_at")) or datetime.now(UTC)
    return Annotation(
        id=number,
        task=task,
        result=result,
        prediction=_id(entry.get("parent_prediction")),
        model_version=clean_text(origin.get("model_version"))[:200] if isinstance(origin, Mapping) else "",
        lead_time=float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None,
        completed_by=_id(entry.get("completed_by")),
        skipped=entry.get("was_cancelled") is True,
        created_at=_time(entry.get("created_at")) or updated,
        updated_at=updated,
    )


def _id(value: Any) -> int | None:
    """An id, or the id of an object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID
    return value if fits else None


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
