"""Events of a real Label Studio: each is counted, annotations are kept, a changed labeling config is used at once."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from tests.e2e.conftest import World
from tests.support.annotation_events import annotate, record, recorded_events
from tests.support.conversation import differences
from tests.support.http_server import http_server, json_reply

pytestmark = pytest.mark.e2e

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="mask" toName="image"><Label value="{label}" model_prompt="{label}"/></PolygonLabels>
</View>
"""
_COUNT = re.compile(r'^int_webhooks_total\{action="(\w+)"\} (\S+)$', re.MULTILINE)
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Events:
    """The backend's own count of events since the last look."""

    backend: str

    def counted(self) -> Counter[str]:
        page = httpx.get(f"{self.backend}/metrics", trust_env=False, timeout=60.0).text
        return Counter({action: int(float(number)) for action, number in _COUNT.findall(page)})

    def after(self, before: Counter[str], wanted: str) -> Counter[str]:
        """What came since ``before``, as soon as ``wanted`` is among it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (new := self.counted() - before)[wanted] == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        return new


def connected(world: World, label: str) -> tuple[int, list[int]]:
    """A project with three tasks, connected: its id and the tasks'."""
    project = world.client.create_project(f"e2e webhooks {label}", CONFIG.format(label=label))
    files: list[Path] = [sample.image for sample in load_samples(samples_folder())[:3]]
    tasks = list(world.client.upload(project, files).values())
    row = world.client.connect(project, world.backend)
    assert row["state"] == "CO", row
    return project, tasks


def test_label_studio_registers_the_webhook_itself_for_all_events(world: World) -> None:
    project, _ = connected(world, "hook")
    (hook,) = world.client.json("GET", "/api/webhooks/", params={"project": project})
    assert hook["url"] == f"{world.backend}/webhook"
    assert (hook["is_active"], hook["send_for_all_actions"]) == (True, True)


def test_each_event_is_counted_once(world: World) -> None:
    project, tasks = connected(world, "counted")
    call, events = world.client.json, Events(world.backend)
    region = {
        "id": "abcdef123456", "from_name": "mask", "to_name": "image", "type": "polygonlabels",
        "original_width": 192, "original_height": 192, "image_rotation": 0,
        "value": {"points": [[10, 10], [50, 10], [50, 50]], "closed": True, "polygonlabels": ["counted"]},
    }  # fmt: skip
    known: dict[str, Any] = {}

    def create() -> None:
        body = {"result": [region]}
        known["annotation"] = call("POST", f"/api/tasks/{tasks[0]}/annotations/", body=body)["id"]

    def update() -> None:
        call("PATCH", f"/api/annotations/{known['annotation']}/", body={"result": [region, region | {"id": "b"}]})

    def delete() -> None:
        world.client.request("DELETE", f"/api/annotations/{known['annotation']}/")

    def delete_tasks() -> None:
        query = {"id": "delete_tasks", "project": project}
        call("POST", "/api/dm/actions", params=query, body={"selectedItems": {"all": False, "included": tasks[1:]}})

    def import_task() -> None:
        call("POST", f"/api/projects/{project}/import", body=[{"image": "https://example.org/a.png"}])

    steps = (
        (create, "ANNOTATION_CREATED"),
        (update, "ANNOTATION_UPDATED"),
        (delete, "ANNOTATIONS_DELETED"),
        (delete_tasks, "TASKS_DELETED"),
        (import_task, "TASKS_CREATED"),
    )
    for act, action in steps:
        before = events.counted()
        act()
        assert events.after(before, action) == Counter({action: 1})


def test_a_changed_labeling_config_is_used_before_the_next_setup(world: World) -> None:
    project, _ = connected(world, "old")
    events = Events(world.backend)

    def versions() -> list[str]:
        address = f"{world.backend}/versions?project={project}"
        return list(httpx.get(address, trust_env=False, timeout=60.0).json()["versions"])

    before, old = events.counted(), versions()
    new_config = CONFIG.format(label="new")
    world.client.json("PATCH", f"/api/projects/{project}", body={"label_config": new_config})
    assert events.after(before, "PROJECT_UPDATED")["PROJECT_UPDATED"] == 1
    new = versions()
    assert new != old
    (row,) = world.client.json("GET", "/api/ml", params={"project": project})  # asks /setup with the new config
    assert [row["model_version"]] == new


def test_start_training_is_answered(world: World) -> None:
    project, _ = connected(world, "train")
    events = Events(world.backend)
    (row,) = world.client.json("GET", "/api/ml", params={"project": project})
    before = events.counted()
    world.client.request("POST", f"/api/ml/{row['id']}/train", body={})
    assert events.after(before, "START_TRAINING")["START_TRAINING"] == 1


def test_annotations_are_kept_and_their_events_are_as_recorded(world: World) -> None:
    project, tasks = connected(world, "kept")
    with http_server(lambda _: json_reply({})) as listener:
        hook = {"project": project, "url": f"{listener.url}/webhook", "send_payload": True, "is_active": True}
        world.client.request("POST", "/api/webhooks/", body={**hook, "send_for_all_actions": True})
        annotate(world.client, project, sorted(tasks), "kept")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(listener.requests) < len(recorded_events()) and time.monotonic() < deadline:
            time.sleep(0.1)
        events = [request.json() for request in listener.requests]
    if os.environ.get("RECORD"):
        record(events)
    assert [event["action"] for event in events] == [event["action"] for event in recorded_events()]
    assert [differences(*pair) for pair in zip(recorded_events(), events, strict=True)] == [[]] * len(events)

    database = Database(f"sqlite:///{world.data / 'backend.sqlite3'}", migrated=False)
    found = list(Annotations(database).of_project(project))
    database.close()
    last = {event["annotation"]["id"]: event["annotation"] for event in events[:4]}
    (taken,) = events[4]["annotation"]
    assert [one.id for one in found] == sorted([taken["id"], events[2]["annotation"]["id"]])
    skipped, made = found
    assert (skipped.was_cancelled, skipped.lead_time, skipped.result) == (True, last[skipped.id]["lead_time"], [])
    assert (made.task, made.parent_prediction, made.result) == (
        taken["task"],
        taken["parent_prediction"],
        taken["result"],
    )
