"""Which tasks a run takes, and what is known of them just before they are worked on. Blocking.

Everything goes through the task list of the Data Manager. Asking for a task alone would make Label Studio ask its ML
backend for a prediction while we wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.labelstudio.wire import TaskIn, parse_task
from ml_backend.runs.types import RunRequest

PAGE = 100
"""Tasks per request: a hundred ids fit into the address, which proxies cut at a few thousand characters."""

_VERSIONS = "predictions_model_versions"
_CUT = 500  # Label Studio cuts the list of a task's versions there
# Columns that the task list computes when asked for any; all but drafts and versions are hidden, for they are slow.
_HIDDEN = [
    f"tasks:{name}"
    for name in (
        "agreement",
        "annotations_ids",
        "annotations_results",
        "annotators",
        "avg_lead_time",
        "comments",
        "completed_at",
        "file_upload",
        "predictions_results",
        "predictions_score",
        "reviewed",
        "reviewers",
        "reviews_accepted",
        "reviews_rejected",
        "state",
        "storage_filename",
        "updated_by",
    )
]


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as it is now.

    Attributes:
        task: its id and data.
        annotated: a person annotated or skipped it.
        drafted: a person has begun to.
        predicted: it has a prediction of the version asked about.
        several: it seems to have more than one of them.
    """

    task: TaskIn
    annotated: bool
    drafted: bool
    predicted: bool
    several: bool = False


@dataclass(frozen=True, slots=True)
class Existing:
    """A prediction that Label Studio has: its id, its score, and whether it is empty."""

    id: int
    score: float | None
    empty: bool


def list_tasks(
    client: LabelStudioClient, request: RunRequest, version: str, stopping: Callable[[], bool] = lambda: False
) -> Iterator[int]:
    """Ids of the tasks that are asked for, page by page; of a view in the view's order, else ascending.

    Without a view every page begins behind the last id, so that tasks which come or go meanwhile shift nothing.

    Args:
        client: Label Studio.
        request: which tasks.
        version: the run's model version; ``only_missing`` leaves out tasks that have a prediction of it.
        stopping: asked before every page; the list ends early if it says so.

    Raises:
        LabelStudioError: refused, or not there.
    """
    project, view, limit = request.project, request.view, request.limit
    given, page, last = 0, 1, 0
    seen: set[int] = set()
    while not stopping():
        if view is None:
            rows = client.tasks_page(project, 1, PAGE, query=_after(last))
        else:
            rows = client.tasks_page(project, page, PAGE, view=view)
        fresh = [row for row in rows if isinstance(row.get("id"), int) and row["id"] not in seen]
        if not rows or (view is None and not fresh):
            return
        chosen = [row["id"] for row in fresh if request.include_annotated or not _annotated(row)]
        if request.only_missing and chosen:
            have = predicted(client, project, chosen, version)
            chosen = [task for task in chosen if task not in have]
        for task in chosen:
            if limit is not None and given >= limit:
                return
            yield task
            given += 1
        page, last = page + 1, max([last, *(row["id"] for row in fresh)])
        seen = seen | {row["id"] for row in fresh} if view is not None else {last}


def look_at(client: LabelStudioClient, project: int, tasks: Collection[int], version: str) -> dict[int, TaskView]:
    """The tasks of a micro-batch as they are now; those that were deleted are missing.

    Raises:
        LabelStudioError: refused, or not there.
    """
    found: dict[int, TaskView] = {}
    doubtful: list[int] = []
    for part in _parts(tasks):
        columns = {"explore": _HIDDEN, "labeling": _HIDDEN}
        query = {"selectedItems": {"all": False, "included": part}, "hiddenColumns": columns}
        for row in client.tasks_page(project, 1, PAGE, query=query):
            if row.get("id") not in part:
                continue
            text = str(row.get(_VERSIONS) or "")
            has = version in _names(text)
            if not has and (len(text) >= _CUT or (not text and row.get("total_predictions"))):
                doubtful.append(row["id"])
            drafted = row.get("draft_exists") is True
            found[row["id"]] = TaskView(parse_task(row), _annotated(row), drafted, has, has and _several(row))
    for task, several in counted(client, project, doubtful, version).items():
        found[task] = replace(found[task], predicted=True, several=several)
    return found


def predicted(client: LabelStudioClient, project: int, tasks: Collection[int], version: str) -> set[int]:
    """Those of the tasks that have a prediction of that version. Raises ``LabelStudioError``."""
    return set(counted(client, project, tasks, version))


def counted(client: LabelStudioClient, project: int, tasks: Collection[int], version: str) -> dict[int, bool]:
    """Those of the tasks that have a prediction of that version, and whether they seem to have several of it.

    Cheap, as Label Studio sends no regions. It names a task's versions once each and counts its predictions: several
    are seen by more predictions than versions. `existing` is certain. Raises ``LabelStudioError``.
    """
    found: dict[int, bool] = {}
    for part in _parts(tasks):
        rows = client.tasks_page(project, 1, PAGE, query=_having(part, version))
        found |= {row["id"]: _several(row) for row in rows if row.get("id") in part}
    return found


def existing(
    client: LabelStudioClient, project: int, tasks: Collection[int], version: str
) -> dict[int, list[Existing]]:
    """The predictions of that version that the tasks have, oldest first; tasks without any are missing.

    Raises:
        LabelStudioError: refused, or not there.
    """
    found: dict[int, list[Existing]] = {}
    for part in _parts(tasks):
        for row in client.tasks_page(project, 1, PAGE, query=_having(part, version), whole=True):
            predictions = row.get("predictions")
            for entry in predictions if isinstance(predictions, list) else []:
                if isinstance(entry, dict) and entry.get("model_version") == version and row.get("id") in part:
                    known = found.setdefault(row["id"], [])
                    if entry["id"] not in {one.id for one in known}:
                        known.append(Existing(entry["id"], _number(entry.get("score")), not entry.get("result")))
    return {task: sorted(entries, key=lambda one: one.id) for task, entries in found.items()}


def _names(versions: str) -> list[str]:
    return [name.strip() for name in versions.split(",")]


def _several(row: Mapping[str, Any]) -> bool:
    """Whether a task has more predictions than versions, or so many versions that Label Studio cuts their list."""
    text, count = str(row.get(_VERSIONS) or ""), row.get("total_predictions")
    return len(text) >= _CUT or (isinstance(count, int) and count != 1 and count != len(_names(text)))


def _parts(tasks: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(tasks)
    for start in range(0, len(ordered), PAGE):
        yield ordered[start : start + PAGE]


def _filter(name: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    item = {"filter": f"filter:tasks:{name}", "operator": operator, "type": kind, "value": value}
    return {"conjunction": "and", "items": [item]}


def _after(last: int) -> dict[str, Any]:
    return {"filters": _filter("id", "greater", "Number", last), "ordering": ["tasks:id"]}


def _having(tasks: list[int], version: str) -> dict[str, Any]:
    selected = {"all": False, "included": tasks}
    return {"selectedItems": selected, "filters": _filter(_VERSIONS, "contains", "List", [version])}


def _annotated(row: Mapping[str, Any]) -> bool:
    """Whether a person annotated or skipped the task: the counters exclude each other."""
    return bool(row.get("total_annotations") or row.get("cancelled_annotations"))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
