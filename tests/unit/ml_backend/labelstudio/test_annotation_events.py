"""Annotations in events: each is read or said to be unreadable, and what nobody looked at teaches nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ml_backend.labelstudio.annotation_events import Annotation, changes_of, deleted_tasks, is_marked, mark

NOON = "2026-11-01T12:00:00Z"


def given(**more: Any) -> dict[str, Any]:
    return {"id": 5, "task": 7, "result": [], "created_at": NOON, "updated_at": NOON, **more}


def read(**more: Any) -> Annotation:
    (change,) = changes_of({"action": "ANNOTATION_CREATED", "annotation": given(**more)})
    assert isinstance(change, Annotation)
    return change


def test_an_annotation_is_read_with_what_it_began_with() -> None:
    found = read(
        task={"id": 7},
        prediction={"model_version": "int-1"},
        parent_prediction=9,
        lead_time=2.5,
        completed_by={"id": 3},
    )
    assert (found.id, found.task, found.model_version, found.parent_prediction) == (5, 7, "int-1", 9)
    assert (found.lead_time, found.completed_by, found.was_cancelled) == (2.5, 3, False)
    plain = read()
    assert (plain.model_version, plain.parent_prediction, plain.lead_time, plain.was_cancelled) == (
        "",
        None,
        None,
        False,
    )
    assert read(id=2**63 - 1).id == 2**63 - 1


@pytest.mark.parametrize(
    "change",
    [
        {"id": 0}, {"id": 2**63}, {"id": "5"}, {"id": None}, {"task": None}, {"result": "x"}, {"created_at": "noon"},
        {"created_at": "2026-11-01T12:00:00"}, {"lead_time": float("inf")}, {"lead_time": float("nan")},
        {"prediction": {"model_version": "v" * 201}},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_and_costs_no_other(change: dict[str, Any]) -> None:
    event = {"action": "ANNOTATIONS_CREATED", "annotation": [given(**change), given(id=6)]}
    unread, other = changes_of(event)
    assert unread is None
    assert isinstance(other, Annotation)
    assert other.id == 6
    assert read(prediction={"model_version": "v" * 200}).model_version == "v" * 200


def test_deleted_ones_are_ids() -> None:
    assert list(changes_of({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, {"id": 2}, {"x": 1}]})) == [
        1, 2, None,
    ]  # fmt: skip
    assert list(changes_of({"action": "ANNOTATION_CREATED"})) == []


def marked(*regions: bool, later: timedelta = timedelta()) -> dict[str, Any]:
    result = [mark({"id": str(n)}, "0.9") if one else {"id": str(n)} for n, one in enumerate(regions)]
    return given(result=result, updated_at=(datetime.fromisoformat(NOON) + later).isoformat())


@pytest.mark.parametrize(
    ("annotation", "teaches"),
    [
        (marked(True), False),
        (marked(True, True), False),
        (marked(True, True, later=timedelta(seconds=1.9)), False),
        (marked(True, True, later=timedelta(seconds=2)), True),
        (marked(True, False), True),
        (marked(False), True),
        (marked(), True),
        (given(result=None), True),
        (given(result=["x", {"meta": "x"}, {"meta": {"text": "x"}}, {"meta": {"text": [None]}}]), True),
    ],
)
def test_a_prediction_that_nobody_looked_at_teaches_nothing(annotation: dict[str, Any], teaches: bool) -> None:
    found = list(changes_of({"action": "ANNOTATION_CREATED", "annotation": annotation}))
    assert len(found) == teaches
    assert Annotation.model_validate(annotation).unseen is not teaches


@pytest.mark.parametrize(
    ("meta", "kept"),
    [({}, []), ({"meta": {"text": ["a"]}}, ["a"]), ({"meta": {"text": "a"}}, ["a"]), ({"meta": 5}, [])],
)
def test_a_mark_keeps_what_was_written_beside_the_region(meta: dict[str, Any], kept: list[str]) -> None:
    region = mark({"id": "a", **meta}, "0.9")
    assert region["meta"]["text"][:-1] == kept
    assert region["meta"]["text"][-1].endswith("0.9")
    assert is_marked(region)
    assert not is_marked({"id": "a", **meta})
    assert not is_marked(None)


@pytest.mark.parametrize(
    ("event", "tasks"),
    [
        ({"action": "PROJECT_DELETED", "tasks": [1]}, None),
        ({"action": "TASKS_DELETED", "tasks": [{"id": 1}, 2, {"id": "x"}, None, 3]}, [1, 2, 3]),
        ({"action": "TASKS_DELETED", "tasks": None}, []),
        ({"action": "TASKS_DELETED", "tasks": {"id": 1}}, []),
        ({"action": "TASKS_DELETED"}, []),
    ],
)
def test_tasks_that_are_gone_are_named(event: dict[str, Any], tasks: list[int] | None) -> None:
    assert deleted_tasks(event) == tasks
