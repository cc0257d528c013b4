"""Contract of /health, /setup, /webhook, /versions and interactive calls, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.harness import (
    GOOD,
    JSON,
    POLYGONS,
    Backend,
    backend,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data")) as running:
        yield running


# --- health, setup ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health(shared: Backend, path: str) -> None:
    answer = shared.client.get(path)
    assert answer.status_code == 200
    assert answer.json()["status"] == "UP"


def test_setup_with_the_recorded_body(shared: Backend) -> None:
    body = {
        "project": "1.1795238777",
        "schema": POLYGONS,
        "hostname": "http://localhost:8081",
        "access_token": "0123456789abcdef",
        "extra_params": None,
    }
    answer = shared.client.post("/setup", json=body)
    assert answer.status_code == 200
    assert list(answer.json()) == ["model_version"]
    assert answer.json()["model_version"].startswith("int-fake-int-")


@pytest.mark.parametrize(
    ("extra", "prompt"),
    [
        (None, "Animal"),
        ("", "Animal"),
        ("camouflaged animal", "camouflaged animal"),
        ("  two\n lines ", "two lines"),
        ('"quoted"', "quoted"),
        ('{"prompt": "polyp"}', "polyp"),
        ({"prompt": "polyp"}, "polyp"),
        ({"prompts": {"Animal": "an animal"}}, "an animal"),
        ('{"prompts": {"animal": "an animal"}}', "an animal"),
        ({"prompt": "p", "prompts": {"Other": "o"}}, "p"),
        ({"prompt": {"Animal": "inner"}}, "inner"),
        ("{broken", "Animal"),
        ("[1, 2]", "Animal"),
        ([1, 2], "Animal"),
        (7, "Animal"),
        ("42", "42"),
        (True, "Animal"),
        ({"prompt": 3}, "Animal"),
        ({"prompts": [1]}, "Animal"),
        ({"unknown": {"deep": [None]}}, "Animal"),
        ('{"prompt": "' + "x" * 201 + '"}', None),
    ],
)
def test_every_form_of_extra_params(shared: Backend, extra: Any, prompt: str | None) -> None:
    version = shared.setup(extra, project="77.5")
    (result,) = shared.predict(GOOD, project="77.5")
    if prompt is None:
        assert result == []
        assert "201 characters" in shared.problems()
        return
    assert result["model_version"] == version
    assert result["result"][0]["meta"]["text"][0].startswith(f"{prompt},")


@pytest.mark.parametrize("project", [None, 7, "7", "7.123", {"id": 7}, 7.0, True, [], ""])
def test_odd_project_ids(shared: Backend, project: Any) -> None:
    assert shared.setup(project=project).startswith("int-")


def test_setup_without_anything_but_an_object(shared: Backend) -> None:
    assert shared.client.post("/setup", json={}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/setup", "/predict"])
def test_bodies_that_are_no_objects_are_400_in_json(shared: Backend, path: str, body: bytes) -> None:
    answer = shared.client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert set(answer.json()) == {"id", "error", "cure"}


# --- interactive ------------------------------------------------------------------------------------------------------


def textarea(text: Any) -> dict[str, Any]:
    return {"result": [{"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": text}}]}


KEYPOINT = {
    "original_width": 1000, "original_height": 800, "image_rotation": 0,
    "value": {"x": 10, "y": 20, "width": 0.3, "keypointlabels": ["Car"], "labels": ["Car"]}, "is_positive": True,
    "id": "abc", "from_name": "kp", "to_name": "image", "type": "keypointlabels", "origin": "manual",
}  # fmt: skip


@pytest.mark.parametrize(
    "context", [{"result": []}, {"result": [KEYPOINT]}, {"event": "track"}, {"result": None},
                {"result": [None, 3]}, textarea(None), textarea([]), textarea([" "]), textarea(5)]
)  # fmt: skip
def test_interactive_calls_get_a_valid_empty_answer(shared: Backend, context: dict[str, Any]) -> None:
    version = shared.setup()
    assert shared.predict(GOOD, context=context) == [{"result": [], "score": 0.0, "model_version": version}]


@pytest.mark.parametrize("text", ["a typed prompt", ["first", "a typed prompt"]])
def test_a_typed_prompt_is_used(shared: Backend, text: Any) -> None:
    (result,) = shared.predict(GOOD, context=textarea(text))
    assert result["result"][0]["meta"]["text"][0].startswith("a typed prompt,")


# --- webhook, versions, other pages -----------------------------------------------------------------------------------

PROJECT = {"id": 1, "title": "t", "label_config": POLYGONS, "token": "secret", "task_data_password": None}


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": []}, "project": PROJECT, "task": {}}, 201),
        ({"action": "ANNOTATION_UPDATED", "annotation": {"id": 1}, "project": PROJECT}, 201),
        ({"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "START_TRAINING", "project": PROJECT}, 201),
        ({"action": "PROJECT_UPDATED", "project": PROJECT}, 201),
        ({"action": "PROJECT_UPDATED", "project": None}, 201),
        ({"action": "PROJECT_UPDATED"}, 201),
        ({"action": "TASKS_CREATED", "tasks": [{"id": 1}], "project": PROJECT}, 201),
        ({"action": "LABEL_LINK_CREATED"}, 201),
        ({"action": "SOMETHING_NEW"}, 200),
        ({"action": None}, 200),
        ({"action": ["x"]}, 200),
        ({}, 200),
        ([], 200),
    ],
)
def test_webhooks_of_every_shape(shared: Backend, event: Any, status: int) -> None:
    assert shared.client.post("/webhook", json=event).status_code == status


def test_a_changed_config_changes_the_version_in_use(shared: Backend) -> None:
    before = shared.setup(project="31.4")
    changed = PROJECT | {"id": 31, "label_config": POLYGONS.replace('value="Animal"', 'value="Beast"')}
    shared.client.post("/webhook", json={"action": "PROJECT_UPDATED", "project": changed})
    after = shared.client.get("/versions", params={"project": "31.4"}).json()["versions"]
    assert len(after) == 1
    assert after != [before]


def test_versions_and_metrics(shared: Backend) -> None:
    version = shared.setup(project="32.1")
    assert shared.client.get("/versions", params={"project": "32.1"}).json() == {"versions": [version]}
    assert version in shared.client.get("/versions").json()["versions"]
    page = shared.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'int_tasks_total{outcome="annotated"}' in page.text
    assert "int_models_ready 1.0" in page.text
    assert shared.client.get("/openapi.json").json()["paths"].keys() >= {"/health", "/setup", "/predict", "/webhook"}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/predict", 405)])
def test_other_pages_are_short_json_errors(shared: Backend, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"id", "error", "cure"}
