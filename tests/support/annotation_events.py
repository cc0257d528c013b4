"""What a person does to annotations in Label Studio, once through, and the events that the real 1.23.2 sent of it.

``recorded_events.json`` is written anew by ``RECORD=1 pytest tests/e2e/test_webhooks.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient

EVENTS = Path(__file__).with_name("recorded_events.json")
VERSION = "int-nano-int-00c0ffee"


def recorded_events() -> list[dict[str, Any]]:
    """The events in the order of `annotate`; the caller's own."""
    events: list[dict[str, Any]] = json.loads(EVENTS.read_text())
    return events


def record(events: list[dict[str, Any]]) -> None:
    """Write the events of the real Label Studio, without its token."""
    for event in events:
        event["project"]["token"] = "the-project-token"
    EVENTS.write_text(json.dumps(events, indent=1, sort_keys=True) + "\n")


def region(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    """A polygon as a person draws it."""
    return {
        "id": f"region{len(points)}",
        "from_name": "mask",
        "to_name": "image",
        "type": "polygonlabels",
        "original_width": 192,
        "original_height": 192,
        "image_rotation": 0,
        "origin": "manual",
        "value": {"points": [list(point) for point in points], "closed": True, "polygonlabels": [label]},
    }


def annotate(client: LabelStudioClient, project: int, tasks: list[int], label: str) -> None:
    """Annotate the first task, correct a prediction on the second, skip the third, change, take over, delete."""

    def create(task: int, **body: Any) -> int:
        return int(client.json("POST", f"/api/tasks/{task}/annotations/", body=body)["id"])

    def act(action: str, chosen: list[int]) -> None:
        query = {"id": action, "project": project}
        body = {"selectedItems": {"all": False, "included": chosen}}
        client.request("POST", "/api/dm/actions", params=query, body=body)

    triangle = region(label, (10, 10), (50, 10), (50, 50))
    square = region(label, (10, 10), (50, 10), (50, 50), (10, 50))
    drawn = create(tasks[0], result=[triangle], lead_time=3.5)
    predictions = [{"task": task, "result": [square], "score": 0.5, "model_version": VERSION} for task in tasks]
    client.import_predictions(project, predictions)
    rows = client.json("GET", "/api/predictions", params={"task": tasks[1]})
    create(tasks[1], result=[triangle], lead_time=12.25, parent_prediction=rows[0]["id"])
    create(tasks[2], result=[], was_cancelled=True, lead_time=1)
    client.request("PATCH", f"/api/annotations/{drawn}/", body={"result": [triangle, square], "lead_time": 8})
    selected = {"selectedItems": {"all": False, "included": tasks[:2]}}
    query = {"id": "predictions_to_annotations", "project": project}
    client.request("POST", "/api/dm/actions", params=query, body=selected)
    client.request("DELETE", f"/api/annotations/{drawn}/")
    query = {"id": "delete_tasks_annotations", "project": project}
    client.request(
        "POST", "/api/dm/actions", params=query, body={"selectedItems": {"all": False, "included": tasks[1:2]}}
    )
