"""The predictions of a version in Label Studio, to be looked at or deleted. Blocking."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError

_PAGE = 20  # tasks come with their whole results, and a mask may be as large as a photo


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction of a version: its task and id, its version string, and whether an annotation came from it."""

    task: int
    id: int
    version: str
    used: bool


def predictions_of(client: LabelStudioClient, project: int, names: Collection[str]) -> Iterator[Predicted]:
    """All predictions of a project that carry one of these version strings, by task.

    Raises:
        LabelStudioError: refused, or not there.
    """
    for name in names:
        last = 0
        while True:
            rows = client.tasks_page(project, 1, _PAGE, query=_having(name, last), whole=True)
            fresh = [row for row in rows if isinstance(row.get("id"), int) and row["id"] > last]
            if not fresh:
                break
            for row in fresh:
                yield from _of_task(row, name)
            last = max(row["id"] for row in fresh)


def remove_predictions(client: LabelStudioClient, found: Collection[Predicted]) -> int:
    """Delete predictions but those that an annotation came from; how many were deleted. Those gone already count not.

    Raises:
        LabelStudioError: refused, or not there.
    """
    removed = 0
    for one in found:
        if one.used:
            continue
        try:
            client.delete_prediction(one.id)
        except LabelStudioError as error:
            if error.status != 404:
                raise
        else:
            removed += 1
    return removed


def _of_task(row: Mapping[str, Any], name: str) -> Iterator[Predicted]:
    annotations = [a for a in row.get("annotations") or () if isinstance(a, Mapping)]
    used = {a.get("parent_prediction") for a in annotations}
    for entry in row.get("predictions") or ():
        if isinstance(entry, Mapping) and entry.get("model_version") == name:
            yield Predicted(row["id"], entry["id"], name, entry["id"] in used)


def _having(name: str, last: int) -> dict[str, Any]:
    items = [
        {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last},
        {
            "filter": "filter:tasks:predictions_model_versions",
            "operator": "contains",
            "type": "List",
            "value": [name],
        },
    ]
    return {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
