"""The parts of runs that need neither a database nor a server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.cli.watch import counts, duration, stall, summary, throughput
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.wire import TaskIn
from ml_backend.runs.listing import Existing, TaskView
from ml_backend.runs.manager import project_warnings, with_prompt
from ml_backend.runs.triage import SAME_FAILURES, grouped, hopeless, pushed_before, triage
from ml_backend.runs.types import Lease, Progress, Run, RunRequest, RunSpec, RunState, TaskRecord, TaskState

SPEC = RunSpec(RunRequest(project=7), "<View/>", None, "int-v-1", "a cat", "int", "hash")


def view(task: int, *, annotated: bool = False, drafted: bool = False, predicted: bool = False) -> TaskView:
    return TaskView(TaskIn(id=task, data={}), annotated, drafted, predicted)


flags = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 3))


@given(tasks=st.lists(flags, max_size=12), include=st.booleans(), empty=st.booleans())
def test_triage_decides_about_every_task_once_and_never_touches_what_people_did(
    tasks: list[tuple[bool, bool, bool, bool, int]], include: bool, empty: bool
) -> None:
    request = RunRequest(project=7, include_annotated=include)
    attempts = {number: entry[4] for number, entry in enumerate(tasks, 1)}
    views = {
        number: view(number, annotated=a, drafted=d, predicted=p)
        for number, (there, a, d, p, _) in enumerate(tasks, 1)
        if there
    }
    lease = Lease("1", "1", "host:1:x", attempts)
    before = pushed_before(lease, views)
    wanted, results = triage(request, lease, views, {task: Existing(task + 100, 0.5, empty) for task in before})
    assert sorted([*(w.task.id or 0 for w in wanted), *(r.task for r in results)]) == list(lease.tasks)
    for one in wanted:
        assert not one.predicted
        assert include or not (one.annotated or one.drafted)
    for result in results:
        if result.task in before:
            assert result.state is (TaskState.ABSTAINED if empty else TaskState.DONE)
            assert result.prediction == result.task + 100
        else:
            assert result.state is TaskState.SKIPPED
            assert result.reason


@pytest.mark.parametrize(
    ("attempts", "predicted", "there", "expected"),
    [(2, True, True, [1]), (1, True, True, []), (2, False, True, []), (2, True, False, []), (3, True, True, [1])],
)
def test_pushed_before_are_tasks_that_are_leased_again_and_have_a_prediction(
    attempts: int, predicted: bool, there: bool, expected: list[int]
) -> None:
    lease = Lease("1", "1", "host:1:x", {1: attempts})
    assert pushed_before(lease, {1: view(1, predicted=predicted)} if there else {}) == expected


@pytest.mark.parametrize(
    ("seen", "include", "expected"),
    [
        (None, False, "the task was deleted"),
        (view(1, predicted=True), True, "already done: it has a prediction of this version"),
        (view(1, annotated=True), False, "left alone: a person annotated it"),
        (view(1, drafted=True), False, "left alone: a person has begun to annotate it"),
        (view(1, annotated=True), True, ""),
        (view(1, drafted=True), True, ""),
        (view(1), False, ""),
    ],
)
def test_why_a_task_is_left_alone(seen: TaskView | None, include: bool, expected: str) -> None:
    lease = Lease("1", "1", "host:1:x", {1: 1})
    request = RunRequest(project=7, include_annotated=include)
    wanted, results = triage(request, lease, {} if seen is None else {1: seen}, {})
    assert [(one.state, one.reason, one.score) for one in results] == (
        [(TaskState.SKIPPED, expected, None)] if expected else []
    )
    assert wanted == ([] if expected or seen is None else [seen])


def test_what_an_earlier_worker_pushed_is_taken_as_it_is() -> None:
    lease = Lease("1", "1", "host:1:x", {1: 2, 2: 2})
    views = {task: view(task, predicted=True) for task in (1, 2)}
    there = {1: Existing(11, 0.25, empty=False), 2: Existing(12, None, empty=True)}
    wanted, (found, nothing) = triage(RunRequest(project=7), lease, views, there)
    assert wanted == []
    assert (found.state, found.score, found.reason, found.prediction) == (TaskState.DONE, 0.25, "", 11)
    assert (nothing.state, nothing.score, nothing.prediction) == (TaskState.ABSTAINED, None, 12)
    assert nothing.reason.startswith("nothing found")


class Listed:
    """A ledger that knows one run."""

    def __init__(self, states: list[tuple[TaskState, str]]) -> None:
        self.states = states

    def progress(self, run_id: str) -> Progress:
        return Progress({state: sum(one is state for one, _ in self.states) for state in TaskState})

    def records(self, run_id: str, state: TaskState | None, after: int, most: int) -> list[TaskRecord]:
        assert (run_id, state, after) == ("4", None, 0)
        rows = [TaskRecord(n, one, 1, None, why, 0.1, None) for n, (one, why) in enumerate(self.states, 1)]
        return rows[:most]


FAILED, SKIPPED = (TaskState.FAILED, "no image at /a/1.png"), (TaskState.SKIPPED, "left alone")


@pytest.mark.parametrize(
    ("states", "stopped"),
    [
        ([FAILED] * SAME_FAILURES, True),
        ([FAILED] * (SAME_FAILURES - 1), False),
        ([SKIPPED] * 5 + [FAILED] * SAME_FAILURES, True),
        ([FAILED] * SAME_FAILURES + [(TaskState.DONE, "")], False),
        ([FAILED] * SAME_FAILURES + [(TaskState.ABSTAINED, "nothing found")], False),
        ([FAILED] * SAME_FAILURES + [(TaskState.PENDING, "")], True),
        ([(TaskState.LEASED, "")] + [FAILED] * SAME_FAILURES, False),
        ([FAILED] * 5 + [(TaskState.FAILED, "the models failed")] + [FAILED] * SAME_FAILURES, False),
        ([FAILED] * SAME_FAILURES + [(TaskState.FAILED, "the models failed")], True),
        ([SKIPPED] * 190 + [FAILED] * SAME_FAILURES, True),
    ],
)
def test_a_run_is_hopeless_when_its_first_tasks_all_failed_for_one_reason(
    states: list[tuple[TaskState, str]], stopped: bool
) -> None:
    ledger: Any = Listed(states)
    said = hopeless(ledger, "4")
    assert bool(said) is stopped
    if stopped:
        count = sum(state is TaskState.FAILED for state, _ in states)
        assert said.startswith(f"all {count} images so far failed for one reason: no image at /a/1.png. ")


def test_ten_failures_are_enough() -> None:
    assert SAME_FAILURES == 10


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, {"prompt": "a cat"}),
        ("a dog", {"prompt": "a cat"}),
        ('{"prompt": "a dog", "epsilon": 2}', {"prompt": "a cat", "epsilon": 2}),
        ({"prompts": {"Dog": "a dog"}}, {"prompt": "a cat", "prompts": {"Dog": "a dog"}}),
        ("[1, 2]", {"prompt": "a cat"}),
        ("{broken", {"prompt": "a cat"}),
    ],
)
def test_a_prompt_replaces_the_connections_and_nothing_else(params: Any, expected: dict[str, Any]) -> None:
    assert with_prompt(params, "a cat") == expected


@pytest.mark.parametrize(
    ("project", "set_it", "said"),
    [
        ({"show_collab_predictions": True, "model_version": "v"}, False, []),
        ({"show_collab_predictions": True, "model_version": "INT"}, True, []),
        ({"show_collab_predictions": True, "model_version": "INT"}, False, ["predictions of 'INT'"]),
        ({"show_collab_predictions": False, "model_version": ""}, False, ["does not show", "no model version"]),
        ({"model_version": "v", "evaluate_predictions_automatically": True}, False, ["whenever tasks are listed"]),
    ],
)
def test_the_toggle_that_is_off_is_named(project: dict[str, Any], set_it: bool, said: list[str]) -> None:
    found = project_warnings(project, "v", set_model_version=set_it)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        (0, True),
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (413, False),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_which_errors_are_transient(status: int, transient: bool) -> None:
    assert LabelStudioError("x", status).transient is transient


def test_numbers_for_people() -> None:
    progress = Progress({TaskState.PENDING: 100, TaskState.DONE: 20, TaskState.FAILED: 2}, rate=0.5)
    assert throughput(progress) == "0.5 images/s, 0:03:20 left, 2 failed"
    assert counts(progress) == "100 pending, 20 done, 2 failed"
    assert throughput(Progress({TaskState.DONE: 5}, rate=22.4)) == "22 images/s"
    assert duration(3723.4) == "1:02:03"
    assert counts(Progress()) == "no tasks"
    assert stall(progress) == ""
    held = replace(progress, silent=16, free_in=80.4)
    assert stall(held) == "16 tasks are held by a silent worker, free in 0:01:20"


def run(state: RunState, why: str = "") -> Run:
    return Run("4", SPEC, state, why, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_summary_names_the_failed_and_the_next_command() -> None:
    failed = [TaskRecord(n, TaskState.FAILED, 1, None, "no image", 0.1, None) for n in range(30)]
    ended = Progress({TaskState.DONE: 5, TaskState.FAILED: 30})
    lines = summary(run(RunState.FINISHED), ended, failed)
    assert lines[0] == "run 4 finished: 5 done, 30 failed"
    assert lines[1] == "  task 0: no image"
    assert lines[-2:] == [
        "  and 10 more: int-backend runs show 4 --state failed",
        "try the failed ones again: int-backend runs retry 4",
    ]
    half = Progress({TaskState.DONE: 5, TaskState.PENDING: 5})
    stopped = summary(run(RunState.STOPPED, "interrupted"), half, [])
    assert stopped == [
        "run 4 stopped: 5 pending, 5 done (interrupted)",
        "go on with it: int-backend runs resume 4",
    ]


def test_failures_are_grouped_by_what_they_have_in_common() -> None:
    reasons = [
        "'/data/upload/1/a.png' was not found (404)",
        "the host 10.0.0.7 does not answer",
        "'/data/upload/1/b b.png' was not found (404)",
        "the host images.example does not answer",
        "https://a.example/1.png: not found",
        "https://b.example/x/2.png?c=d: not found",
    ]
    records = [TaskRecord(i, TaskState.FAILED, 1, None, text, 0.0, None) for i, text in enumerate(reasons)]
    assert [(text, tasks) for text, tasks in grouped(records)] == [
        (reasons[0], [0, 2]),
        (reasons[4], [4, 5]),
        (reasons[1], [1]),
        (reasons[3], [3]),
    ]
    assert grouped([]) == []
