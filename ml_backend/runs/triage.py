"""What becomes of a lease's tasks before the work: which are wanted, and which are settled without any."""

from __future__ import annotations

from collections.abc import Mapping

from ml_backend.runs.listing import Existing, TaskView
from ml_backend.runs.types import Lease, RunRequest, TaskResult, TaskState


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
        return "it has a prediction of this version already"
    if view.annotated and not request.include_annotated:
        return "a person annotated it"
    if view.drafted and not request.include_annotated:
        return "a person has begun to annotate it"
    return ""


def _found_there(task: int, seen: Existing) -> TaskResult:
    state = TaskState.ABSTAINED if seen.empty else TaskState.DONE
    reason = "nothing found; pushed by a worker that ended before it could say more" if seen.empty else ""
    return TaskResult(task, state, seen.score, reason, prediction=seen.id)
