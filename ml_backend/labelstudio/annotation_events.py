"""Annotations in the events of Label Studio's webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AliasPath, AwareDatetime, BaseModel, BeforeValidator, Field, ValidationError

from ml_backend.labelstudio.wire import Text

ANNOTATION_EVENTS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "ANNOTATIONS_DELETED"}
)

UNSEEN = "accepted by its score, nobody looked at it"
"""How the text of a region begins that `mark` made."""

_SAME_MOMENT = timedelta(seconds=2)
"""Label Studio notes both times at creation, one after the other."""


def _id(value: Any) -> Any:
    """An id, or that of an object."""
    return value.get("id") if isinstance(value, Mapping) else value


Id = Annotated[int, BeforeValidator(_id), Field(gt=0, lt=2**63, strict=True)]


class Annotation(BaseModel, frozen=True, protected_namespaces=()):
    """What a person drew on a task, as Label Studio has it.

    Attributes:
        id: unique in its project.
        task: the task's id.
        result: the regions; None where they were too large to keep.
        parent_prediction: id of the prediction that the person began with, or None.
        model_version: of that prediction, or "" where it is not known.
        lead_time: seconds that the person took, or None.
        completed_by: id of the person, or None.
        was_cancelled: the person skipped the task.
        created_at, updated_at: by Label Studio's clock.
    """

    id: Id
    task: Id
    result: list[Any] | None
    parent_prediction: Id | None = None
    model_version: Text = Field("", max_length=200, validation_alias=AliasPath("prediction", "model_version"))
    lead_time: float | None = Field(None, allow_inf_nan=False)
    completed_by: Id | None = None
    was_cancelled: bool = False
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @property
    def unseen(self) -> bool:
        """Whether nobody looked at it: a prediction that was accepted by its score, and not changed since."""
        marked = [is_marked(region) for region in self.result or ()]
        return bool(marked) and all(marked) and self.updated_at - self.created_at < _SAME_MOMENT


def mark(region: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The region of a prediction for an annotation that nobody looked at; Label Studio shows and keeps the text."""
    meta = region.get("meta") if isinstance(region.get("meta"), Mapping) else {}
    said = meta.get("text") if meta else None
    said = said if isinstance(said, list) else [said] if said else []
    return {**region, "meta": {**(meta or {}), "text": [*said, f"{UNSEEN}: {text}"]}}


def is_marked(region: Any) -> bool:
    """Whether `mark` made it."""
    meta = region.get("meta") if isinstance(region, Mapping) else None
    said = meta.get("text") if isinstance(meta, Mapping) else None
    return isinstance(said, list) and any(isinstance(text, str) and text.startswith(UNSEEN) for text in said)


class _Deleted(BaseModel):
    id: Id


DELETED_EVENTS = frozenset({"TASKS_DELETED", "PROJECT_DELETED"})
"""Events with which annotations vanish that no event of their own tells of."""


def deleted_tasks(event: Mapping[str, Any]) -> list[int] | None:
    """The tasks that an event of `DELETED_EVENTS` says are gone; None for all of the project."""
    if event.get("action") == "PROJECT_DELETED":
        return None
    listed = event.get("tasks")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        try:
            found.append(_Deleted.model_validate(entry if isinstance(entry, Mapping) else {"id": entry}).id)
        except ValidationError:
            continue
    return found


def changes_of(event: Mapping[str, Any]) -> Iterator[Annotation | int | None]:
    """What an event of `ANNOTATION_EVENTS` says: annotations, ids of deleted ones, None for what cannot be read.

    Label Studio 1.23 sends one annotation, or a list of them, under ``annotation``, and those that were deleted as
    ``{"id": 1}`` under ``annotations``.
    """
    deleted = str(event.get("action")).endswith("_DELETED")
    for name in ("annotation", "annotations"):
        found = event.get(name, [])
        for entry in found if isinstance(found, list) else [found]:
            try:
                change = _Deleted.model_validate(entry).id if deleted else Annotation.model_validate(entry)
            except ValidationError:
                yield None
                continue
            if not (isinstance(change, Annotation) and change.unseen):  # a prediction teaches its own model nothing
                yield change
