"""What this program asks of Label Studio, once through: the real one's answers are recorded, the stand-in's must fit.

``recorded/*.json`` hold the real answers of the version that the end-to-end tests run; they are written anew by
``RECORD=1 pytest tests/e2e/test_recorded_answers.py``.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.listing import existing, list_tasks, look_at, predicted
from ml_backend.runs.types import RunRequest

RECORDED = Path(__file__).with_name("recorded")
_FREE_FORM = frozenset({"data", "result", "control_weights", "parsed_label_config", "headers", "validation_errors"})
"""Keys whose values are a user's, or differ with them."""
_OF_THE_MACHINE = ("backend", "label-studio-os-backend")  # what git says where Label Studio was started


REGION = {
    "id": "abc",
    "from_name": "label",
    "to_name": "image",
    "type": "polygonlabels",
    "original_width": 80,
    "original_height": 60,
    "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["Animal"]},
}


def recorded(name: str) -> Any:
    """The body of a recorded answer; the caller's own."""
    return copy.deepcopy(_recorded(name))


@functools.cache
def _recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())["body"]


def converse(url: str, token: str, project: int, task: int) -> dict[str, Any]:
    """Status and body of every answer, by name. The project has a connection, and its first task no prediction.

    ``token`` is a personal access token.
    """
    said: dict[str, Any] = {}
    answers: list[httpx.Response] = []

    def ask(name: str, call: Callable[[], Any]) -> Any:
        answers.clear()
        with suppress(LabelStudioError):
            call()
        answer = answers[-1]
        is_json = "json" in answer.headers.get("content-type", "")
        said[name] = {"status": answer.status_code, "body": answer.json() if is_json and answer.content else None}
        return said[name]["body"]

    def hear(client: LabelStudioClient) -> LabelStudioClient:
        client._http.event_hooks["response"] = [lambda answer: answer.read() and None, answers.append]
        return client

    with hear(LabelStudioClient(url, "", retries=0)) as client:
        ask("version", lambda: client.json("GET", "/api/version"))
        ask("no_token", client.whoami)
    with hear(LabelStudioClient(url, f"{token}x", retries=0)) as client:
        ask("refresh_refused", client.whoami)
    with hear(LabelStudioClient(url, token, retries=0)) as client:
        ask("refresh", client.tokens.headers)
        ask("whoami", client.whoami)
        ask("projects", lambda: client.json("GET", "/api/projects", params={"page_size": 10}))
        ask("projects_named", lambda: client.projects(10))
        ask("project", lambda: client.project(project))
        made = {"project": project, "data": {"title": "All of them", "type": "list"}}
        ask("view_made", lambda: client.json("POST", "/api/dm/views", body=made))
        ask("views", lambda: client.views(project))
        ask("no_project", lambda: client.project(999_999))
        ask("project_changed", lambda: client.update_project(project, {"show_collab_predictions": True}))
        ask("connections", lambda: client.connections(project))
        ask("webhooks", lambda: client.json("GET", "/api/webhooks/", params={"project": project}))
        prediction = {"task": task, "result": [REGION], "score": 0.5, "model_version": "int-a"}
        ask("push", lambda: client.import_predictions(project, [prediction]))
        ask("push_refused", lambda: client.import_predictions(project, [{**prediction, "task": 999_999}]))
        ask("tasks_of_a_page", lambda: client.tasks_page(project, 1, 10))
        ask("tasks_beyond", lambda: client.tasks_page(project, 9, 10))
        ask("tasks_listed", lambda: next(list_tasks(client, RunRequest(project=project), "int-a")))
        ask("tasks_looked_at", lambda: look_at(client, project, [task], "int-a"))
        ask("tasks_predicted", lambda: predicted(client, project, [task], "int-a"))
        ask("tasks_predicted_otherwise", lambda: predicted(client, project, [task], "int-b"))
        whole = ask("tasks_with_predictions", lambda: existing(client, project, [task], "int-a"))
        number = whole["tasks"][0]["predictions"][0]["id"]
        ask("prediction_deleted", lambda: client.delete_prediction(number))
        ask("tasks_without_predictions", lambda: existing(client, project, [task], "int-a"))
    return said


def record(said: Mapping[str, Any], url: str) -> None:
    """Write the answers of the real Label Studio at ``url``, without what belongs to this machine."""
    said["refresh"]["body"]["access"] = "an.access.token"
    said["version"]["body"] |= dict.fromkeys(_OF_THE_MACHINE)
    for name, answer in said.items():
        text = json.dumps(answer, indent=1, sort_keys=True).replace(url, "http://label-studio")
        (RECORDED / f"{name}.json").write_text(text + "\n")


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where two answers differ in keys or types of values; an empty list and null fit anything, numbers each other."""
    if expected is None or found is None or where.rpartition(".")[2] in _FREE_FORM:
        return []
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lacking = [f"{where}.{key} is lacking" for key in expected.keys() - found.keys()]
        more = [f"{where}.{key} is not in the real answer" for key in found.keys() - expected.keys()]
        both = sorted(expected.keys() & found.keys())
        return sorted(lacking + more) + [
            text for key in both for text in differences(expected[key], found[key], f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list):
        pairs = zip(expected[:1] * len(found), found, strict=True) if expected else ()
        return list(dict.fromkeys(text for one, other in pairs for text in differences(one, other, f"{where}[]")))
    if _kind(expected) != _kind(found):
        return [f"{where} is {_kind(found)}, really {_kind(expected)}"]
    return []


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__
