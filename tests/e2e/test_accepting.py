"""Predictions accepted by their scores, in the real Label Studio: counted, marked, never where a person was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.labelstudio.annotation_events import UNSEEN
from ml_backend.learning.project_tasks import read_project
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from tests.e2e.conftest import World
from tests.e2e.test_webhooks import Events
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TASK = "camouflaged animal"
CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="mask" toName="image"><Label value="Animal" background="#ff00ff"/></PolygonLabels>
</View>
"""
PATIENCE = 300.0


def annotations(world: World, task: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.client.json("GET", f"/api/tasks/{task}/annotations/")
    return found


def learned_from(world: World, project: int) -> tuple[set[int], set[int]]:
    """The annotations that the models learn from: those that events brought, and those that a training would read."""
    database = Database(f"sqlite:///{world.data / 'backend.sqlite3'}", migrated=False)
    try:
        kept = {one.id for one in Annotations(database).of_project(project)}
    finally:
        database.close()
    return kept, {one.id for one in read_project(world.client, project, most=100).annotations}


def test_accepted_by_score(world: World, page: Page) -> None:
    samples = [one for one in load_samples(samples_folder()) if one.task == TASK]
    project = world.client.create_project("Accepted", CONFIG)
    tasks = list(world.client.upload(project, [one.image for one in samples]).values())
    assert world.client.connect(project, world.backend, extra_params=TASK)["state"] == "CO"
    with httpx.Client(base_url=world.backend, trust_env=False, timeout=120) as backend:
        begun = backend.post("/runs", json={"project": project, "include_annotated": True}).json()["run"]["id"]
        until(lambda: backend.get(f"/runs/{begun}").json()["state"] == "finished", "the run is finished", PATIENCE)
        proposed = {task: one for task in tasks for one in world.client.predictions(task)}
        assert proposed.keys() == set(tasks)
        least = median(one["score"] for one in proposed.values())
        good = [task for task in tasks if proposed[task]["score"] >= least and proposed[task]["result"]]
        assert len(good) >= 4
        by_hand, drafted, wrong, *rest = good
        region = proposed[by_hand]["result"][0]
        drawn = {"result": [region], "lead_time": 12.0}
        own = world.client.json("POST", f"/api/tasks/{by_hand}/annotations/", body=drawn)["id"]
        world.client.json("POST", f"/api/tasks/{drafted}/drafts", body={"result": []})
        backend.post(f"/runs/{begun}/review", json={"task": wrong, "verdict": "wrong"}).raise_for_status()
        accept = f"/runs/{begun}/review/accept"

        expected = {"least": least, "made": len(rest), "people": 2, "gone": 0}
        assert backend.get(accept, params={"least": least}).json() == expected
        assert [len(annotations(world, task)) for task in tasks] == [int(task == by_hand) for task in tasks]
        events = Events(world.backend)
        before = events.counted()
        assert backend.post(accept, json={"least": least}).json() == expected
        again = backend.post(accept, json={"least": least}).json()
        assert (again["made"], again["people"]) == (0, 2 + len(rest))
        assert {task for task in tasks if annotations(world, task)} == {by_hand, *rest}
        for task in rest:
            (made,) = annotations(world, task)
            assert made["parent_prediction"] == proposed[task]["id"]
            assert [one["value"] for one in made["result"]] == [one["value"] for one in proposed[task]["result"]]
            assert all(one["meta"]["text"][-1].startswith(f"{UNSEEN}: run {begun}") for one in made["result"])
        until(lambda: (events.counted() - before)["ANNOTATION_CREATED"] >= len(rest), "Label Studio told of them")

    # nothing is learned from them until a person changes one
    assert learned_from(world, project) == ({own}, {own})
    (made,) = annotations(world, rest[0])
    changed = made["result"][:-1] or [made["result"][0] | {"id": "moved"}]
    created = datetime.fromisoformat(made["created_at"])
    until(lambda: datetime.now(UTC) - created > timedelta(seconds=3), "the annotation is older than a moment")
    world.client.json("PATCH", f"/api/annotations/{made['id']}/", body={"result": changed, "lead_time": 5.0})
    both = {own, made["id"]}
    until(lambda: learned_from(world, project) == (both, both), "the changed one is learned from")

    # and an annotator sees what they are
    page.goto(f"{world.server.url}/projects/{project}/data?task={rest[-1]}")
    page.locator(".lsf-outliner-item").first.click()
    page.get_by_text(UNSEEN).first.wait_for()
