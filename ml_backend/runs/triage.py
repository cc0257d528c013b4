"""What becomes of a lease's tasks before the work: which are wanted, and which are settled without any.

And what failures have in common: a run of which nothing but one kind of failure comes is stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ml_backend.runs.ledger import Ledger
from ml_backend.runs.listing import Existing, TaskView
from ml_backend.runs.types import Lease, RunRequest, TaskRecord, TaskResult, TaskState

_FIRST = 200
SAME_FAILURES = 10
"""A run whose first so many tasks fail for one reason is stopped: the others would, too."""

_OWN = re.compile(r"""'[^']*'|"[^"]*"|https?://\S+|/\S+|\b[\w.-]*\d[\w.-]*""")


def grouped(failures: Iterable[TaskRecord]) -> list[tuple[str, list[int]]]:
    """Failed tasks by reason, the most frequent first; what only names a task's own file or number does not count.

    A group has the reason of its first task.
    """
    groups: dict[str, tuple[str, list[int]]] = {}
    for record in failures:
        groups.setdefault(_OWN.sub("*", record.reason), (record.reason, []))[1].append(record.task)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def hopeless(ledger: Ledger, run_id: str) -> str:
    """Why the run should be stopped: its first tasks all failed for one reason, and nothing came of others; else "".

    Tasks that were left alone do not count. Good ones may wait for models that are being loaded, while broken ones fail
    at once: so the first tasks by id decide, not the first results. Blocking.
    """
    counts = ledger.progress(run_id).counts
    if counts[TaskState.FAILED] < SAME_FAILURES or counts[TaskState.DONE] or counts[TaskState.ABSTAINED]:
        return ""
    listed = ledger.records(run_id, None, 0, _FIRST)
    first = [record for record in listed if record.state is not TaskState.SKIPPED][:SAME_FAILURES]
    groups = grouped(first)
    if len(groups) != 1 or any(record.state is not TaskState.FAILED for record in first):
        return ""
    return (
        f"all {counts[TaskState.FAILED]} images so far failed for one reason: {groups[0][0]}. Remove the cause, then "
        "resume the run and retry its failed images"
    )


def pushed_before(lease: Lease, views: Mapping[int, TaskView]) -> list[int]:
    """Tasks that are leased again and have a prediction: its pusher ended before the ledger knew."""
    return [task for task in lease.tasks if task in views and views[task].predicted and lease.attempts[task] > 1]


def triage(
    request: RunRequest, lease: Lease, views: Mapping[int, TaskView], there: Mapping[int, Existing]
) -> tuple[list[TaskView], list[TaskResult]]:
    """The tasks to annotate, and the results of all others.

    Args:
        request: the run's.
        lease: the tasks.
        views: the tasks as they are now; deleted ones are missing.
        there: the predictions of the tasks that `pushed_before` named.
    """
    wanted: list[TaskView] = []
    results: list[TaskResult] = []
    for task in lease.tasks:
        view = views.get(task)
        if task in there:
            results.append(_found_there(task, there[task]))
        elif view is None or (reason := _reason(request, view)):
            results.append(
                TaskResult(task, TaskState.SKIPPED, reason="the task was deleted" if view is None else reason)
            )
        else:
            wanted.append(view)
    return wanted, results


def _reason(request: RunRequest, view: TaskView) -> str:
    """Why the task is left alone, or ""."""
    if view.predicted:
        return "already done: it has a prediction of this version"
    if view.annotated and not request.include_annotated:
        return "left alone: a person annotated it"
    if view.drafted and not request.include_annotated:
        return "left alone: a person has begun to annotate it"
    return ""


def _found_there(task: int, seen: Existing) -> TaskResult:
    state = TaskState.ABSTAINED if seen.empty else TaskState.DONE
    reason = "nothing found; pushed by a worker that ended before it could say more" if seen.empty else ""
    return TaskResult(task, state, seen.score, reason, prediction=seen.id)
