"""Events of annotations as the real Label Studio sent them, over a real socket: what is kept of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database, StoreError
from tests.support.annotation_events import recorded_events, region
from tests.support.harness import Backend, backend
from tests.support.label_studio import label_studio, with_uploads
from tests.support.waiting import until

PROJECT = 1
MOMENT = "2026-11-01T12:00:00Z"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Backend]:
    with backend(tmp_path) as made:
        yield made


def kept(folder: Path) -> dict[int, Annotation]:
    database = Database.in_folder(folder)
    try:
        return {annotation.id: annotation for annotation in Annotations(database).of_project(PROJECT)}
    finally:
        database.close()


def send(running: Backend, *events: Any) -> list[int]:
    return [running.client.post("/webhook", json=event).status_code for event in events]


def test_a_persons_work_is_followed_event_by_event(running: Backend, tmp_path: Path) -> None:
    drawn, corrected, skipped, changed, taken, *deleted = recorded_events()
    assert send(running, drawn, corrected, skipped) == [201] * 3
    found = kept(tmp_path)
    assert found[1] == Annotation(
        id=1,
        task=1,
        result=drawn["annotation"]["result"],
        lead_time=3.5,
        completed_by=1,
        created_at=datetime.fromisoformat(drawn["annotation"]["created_at"]),
        updated_at=datetime.fromisoformat(drawn["annotation"]["updated_at"]),
    )
    assert (found[2].task, found[2].parent_prediction, found[2].lead_time) == (2, 2, 12.25)
    assert (found[3].task, found[3].was_cancelled, found[3].result) == (3, True, [])
    assert send(running, changed, taken) == [201] * 2
    found = kept(tmp_path)
    assert (len(found[1].result or ()), found[1].lead_time, found[1].created_at) == (2, 8.0, found[1].created_at)
    assert (found[4].task, found[4].parent_prediction, found[4].lead_time) == (1, 1, None)
    assert send(running, *deleted) == [201] * 2
    assert kept(tmp_path).keys() == {3, 4}


def test_events_that_come_twice_or_late_change_nothing(running: Backend, tmp_path: Path) -> None:
    events = recorded_events()
    send(running, *events)
    after = kept(tmp_path)
    send(running, *reversed(events), *events)
    assert kept(tmp_path) == after


def test_many_at_once(running: Backend, tmp_path: Path) -> None:
    (*_, taken, _, _) = recorded_events()
    (one,) = taken["annotation"]
    many = [{**one, "id": number, "task": number} for number in range(1, 1001)]
    assert send(running, {**taken, "annotation": many}) == [201]
    assert len(kept(tmp_path)) == 1000
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": n} for n in range(1, 1001)]}
    assert send(running, {**gone, "project": {"id": PROJECT}}) == [201]
    assert kept(tmp_path) == {}


def test_the_prediction_that_is_sent_along_names_its_version(running: Backend, tmp_path: Path) -> None:
    (drawn, *_) = recorded_events()
    drawn["annotation"] |= {"prediction": {"id": 7, "model_version": "sam-1"}, "completed_by": {"id": 4, "email": "x"}}
    drawn["annotation"] |= {"created_at": "2026-11-21T10:00:00+02:00", "updated_at": "2026-11-21T10:00:01Z"}
    assert send(running, drawn) == [201]
    (found,) = kept(tmp_path).values()
    assert (found.model_version, found.completed_by) == ("sam-1", 4)
    assert (found.created_at, found.updated_at) == (
        datetime(2026, 11, 21, 8, 0, 0, tzinfo=UTC),
        datetime(2026, 11, 21, 10, 0, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("annotation", "project", "said"),
    [
        ({"id": 1}, {"id": PROJECT}, "ANNOTATION_CREATED of project 1: 1 entries are no annotations"),
        ([None, 3, "x", {"id": True}], {"id": PROJECT}, "4 entries are no annotations"),
        ({"id": 1, "task": 1, "result": "x"}, {"id": PROJECT}, "1 entries"),
        ({"id": 2**70, "task": 1, "result": []}, {"id": PROJECT}, "1 entries"),
        ({"id": 1, "task": 1, "result": []}, {"id": "seven"}, "names no project"),
        ({"id": 1, "task": 1, "result": []}, None, "names no project"),
    ],
)
def test_what_cannot_be_read_is_logged_without_its_content(
    running: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture, annotation: Any, project: Any, said: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert send(running, {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project}) == [201]
    (line,) = [record.getMessage() for record in caplog.records if "ANNOTATION" in record.getMessage()]
    assert said in line
    assert kept(tmp_path) == {}


def test_a_database_that_is_away_answers_503_and_is_logged_once(
    running: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StoreError("the database cannot be used (disk full); check INT_DATA_DIR and its free space")

    (drawn, *_) = recorded_events()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Annotations, "upsert", away)
        answer = running.client.post("/webhook", json=drawn)
    assert (answer.status_code, "disk full" in answer.json()["cure"]) == (503, True)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("ANNOTATION_CREATED of project 1 is lost: the database cannot be used")
    assert drawn["project"]["token"] not in line
    assert send(running, drawn) == [201]
    assert kept(tmp_path).keys() == {1}


def test_writing_does_not_hold_up_health(running: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        begun.set()
        gate.wait(30)

    monkeypatch.setattr(Annotations, "upsert", slow)
    (drawn, *_) = recorded_events()
    with httpx.Client(base_url=running.client.base_url, timeout=40, trust_env=False) as other:
        sending = threading.Thread(target=other.post, args=("/webhook",), kwargs={"json": drawn})
        sending.start()
        assert begun.wait(20)
        started = time.monotonic()
        assert running.client.get("/health").status_code == 200
        assert time.monotonic() - started < 5
        gate.set()
        sending.join()


def test_no_secret_is_stored(running: Backend, tmp_path: Path) -> None:
    events = recorded_events()
    large = region("Polyp", *[(0.1 * n, 0.1 * n) for n in range(500)])
    events[0]["annotation"]["result"] = [large]
    send(running, *events[:5])
    secrets = [events[0]["project"]["token"], events[0]["task"]["data"]["image"]]
    for file in tmp_path.glob("backend.sqlite3*"):
        content = file.read_bytes().decode("latin-1")
        assert not [secret for secret in secrets if secret in content]
    assert kept(tmp_path)[1].result == events[3]["annotation"]["result"]


def test_start_training_begins_a_run_or_says_why_not(tmp_path: Path) -> None:
    made = with_uploads(2)
    made.tasks[1] |= {"total_annotations": 1}
    project = {"id": 7}
    annotation = {"id": 5, "task": 1, "result": [], "created_at": MOMENT, "updated_at": MOMENT}
    with label_studio(made) as fake, backend(tmp_path, label_studio_url=fake.url, label_studio_api_key="k") as running:
        assert send(running, {"action": "START_TRAINING", "project": project}) == [201]
        until(lambda: "project 7 is not known here" in running.problems())
        running.setup(project="7.1", config=made.project["label_config"])
        assert send(running, {"action": "START_TRAINING", "project": project}) == [201]
        until(lambda: "nothing is known that was corrected in project 7" in running.problems())
        send(running, {"action": "ANNOTATION_CREATED", "project": project, "annotation": annotation})
        assert send(running, {"action": "START_TRAINING", "project": project}) == [201]
        listed = lambda: running.client.get("/runs", params={"project": 7}).json()["runs"]  # noqa: E731
        until(lambda: [run["state"] for run in listed()] == ["stopped"])
        (run,) = listed()
        assert (run["kind"], run["total"]) == ("train", 1)
        assert "correct more tasks" in run["why"]
        page = running.client.get(f"/runs/{run['id']}", headers={"Accept": "text/html"})
        assert "the next version of project 7 (Start training)" in page.text


def test_deleted_tasks_and_projects_take_their_annotations_along(running: Backend, tmp_path: Path) -> None:
    events = [
        {
            "action": "ANNOTATION_CREATED",
            "project": {"id": PROJECT},
            "annotation": {"id": n, "task": n, "result": [], "created_at": MOMENT, "updated_at": MOMENT},
        }
        for n in (1, 2, 3)
    ]
    assert send(running, *events) == [201] * 3
    deleted = {"action": "TASKS_DELETED", "project": {"id": PROJECT}, "tasks": [{"id": 1}, {"id": "x"}, {"id": 9}]}
    assert send(running, deleted) == [201]
    assert kept(tmp_path).keys() == {2, 3}
    assert send(running, events[0]) == [201]
    assert kept(tmp_path).keys() == {2, 3}, "what was deleted stays deleted"
    assert send(running, {"action": "PROJECT_DELETED", "project": {"id": PROJECT}}) == [201]
    assert kept(tmp_path) == {}
