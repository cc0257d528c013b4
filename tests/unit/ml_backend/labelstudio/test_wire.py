"""Requests as Label Studio and others send them: read where they can be read, refused with the reason else."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ml_backend.labelstudio.wire import (
    PredictionOut,
    RegionOut,
    RequestError,
    fresh_id,
    parse_predict,
    parse_setup,
    parse_task,
    project_key,
    with_fresh_ids,
)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("7", "7"),
        ("7.1795238777", "7"),
        (" 7 ", "7"),
        (7, "7"),
        (7.9, "7"),
        ({"id": 7, "title": "frogs"}, "7"),
        ("frogs", "frogs"),
        ("x" * 70, "x" * 64),
        (True, ""),
        (float("inf"), ""),
        (None, ""),
        ([7], ""),
        ({}, ""),
        ("a\ud800", "a?"),
    ],
)
def test_a_project_is_recognised_however_it_is_named(value: Any, key: str) -> None:
    assert project_key(value) == key
    assert parse_setup({"project": value}).project == key


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (5, 5),
        ("5", 5),
        ("9" * 18, int("9" * 18)),
        ("9" * 19, None),
        ("٣", None),
        ("x", None),
        (True, None),
        (5.0, None),
    ],
)
def test_a_task_has_a_number_or_none(given: Any, number: int | None) -> None:
    assert parse_task({"id": given, "data": {"image": "x"}}).id == number


@pytest.mark.parametrize("entry", [None, [], "task", 5, {"data": None}, {"data": [1]}, {}])
def test_what_is_no_task_counts_as_one_without_data(entry: Any) -> None:
    task = parse_task(entry)
    assert (task.id, task.data) == (None, {})


def test_a_request_keeps_one_entry_for_every_task() -> None:
    request = parse_predict({"tasks": [{"id": 1}, None, "x"], "project": "7.1", "label_config": "<View/>", "more": 1})
    assert (len(request.tasks), request.project, request.label_config) == (3, "7", "<View/>")
    assert not request.is_interactive
    assert request.typed_prompt == ""


@pytest.mark.parametrize("body", [None, [], "tasks", {}, {"tasks": None}, {"tasks": {}}, {"tasks": "x"}])
def test_a_body_without_tasks_is_refused_with_what_it_needs(body: Any) -> None:
    with pytest.raises(RequestError, match=r"tasks|JSON object"):
        parse_predict(body)


@pytest.mark.parametrize(
    ("params", "interactive"),
    [(None, False), ({}, False), ({"context": {}}, False), ({"context": None}, False), ({"context": [1]}, False),
     ({"context": {"result": []}}, True), ("x", False)],
)  # fmt: skip
def test_an_annotator_waits_where_the_context_says_something(params: Any, interactive: bool) -> None:
    assert parse_predict({"tasks": [], "params": params}).is_interactive is interactive


def area(text: Any, kind: Any = "textarea") -> dict[str, Any]:
    return {"type": kind, "value": {"text": text}}


@pytest.mark.parametrize(
    ("result", "typed"),
    [
        ([area("a frog")], "a frog"),
        ([area(["a frog", "a toad"])], "a toad"),
        ([area(["a frog", "  "])], "a frog"),
        ([area(["a frog", 5, None])], "a frog"),
        ([area(["a frog"]), area([" a toad "], "TextArea")], "a toad"),
        ([area("a frog"), area("")], "a frog"),
        ([area("a frog", "choices")], ""),
        ([area("a frog", None), {"type": "textarea"}, {"type": "textarea", "value": "x"}, None, "x"], ""),
        (None, ""),
        ("x", ""),
    ],
)
def test_what_an_annotator_typed_last_is_the_prompt(result: Any, typed: str) -> None:
    request = parse_predict({"tasks": [], "params": {"context": {"result": result}}})
    assert request.typed_prompt == typed


@pytest.mark.parametrize("given", [{"schema": "<View/>"}, {"label_config": "<View/>"}])
def test_a_setup_may_call_the_labels_a_schema(given: dict[str, str]) -> None:
    assert parse_setup({"project": 1, **given}).label_config == "<View/>"


def test_a_setup_that_is_no_object_is_refused() -> None:
    with pytest.raises(RequestError, match="JSON object"):
        parse_setup([1])


REGION = {
    "id": "a", "from_name": "label", "to_name": "image", "type": "polygonlabels", "value": {"points": []},
    "original_width": 1, "original_height": 1, "score": 1.0,
}  # fmt: skip


def test_a_region_of_one_pixel_with_the_best_score_leaves() -> None:
    region = RegionOut(**REGION)  # type: ignore[arg-type]
    prediction = PredictionOut(result=[region], score=1.0, model_version="v").as_json()
    assert "item_index" not in prediction["result"][0]
    assert prediction["result"][0]["image_rotation"] == 0
    assert PredictionOut(model_version="v").as_json() == {"result": [], "score": 0.0, "model_version": "v"}


@pytest.mark.parametrize(
    "change",
    [
        {"score": 1.5}, {"score": -0.5}, {"score": float("nan")}, {"original_width": 0}, {"original_height": 0},
        {"origin": "manual"}, {"image_rotation": 90}, {"more": 1},
    ],
)  # fmt: skip
def test_a_region_that_label_studio_would_drop_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegionOut(**{**REGION, **change})


def test_a_prediction_sent_again_has_other_ids_and_its_pairs_stay_pairs() -> None:
    sent = {"result": [{"id": "a", "n": 1}, {"id": "a", "n": 2}, {"id": "b", "n": 3}], "score": 0.5}
    first, second, third = with_fresh_ids(sent)["result"]
    assert first["id"] == second["id"] != third["id"]
    assert {first["id"], third["id"]}.isdisjoint({"a", "b"})
    assert [one["n"] for one in (first, second, third)] == [1, 2, 3]
    assert len({fresh_id() for _ in range(100)}) == 100
