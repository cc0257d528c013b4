"""``/runs/ID/review``: what people think is kept and orders the images; accepting by score is careful and marked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.labelstudio.annotation_events import UNSEEN, changes_of
from tests.integration.runs.test_web import PAGE, connected, finished, tasks
from tests.support.harness import Backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    """Task 2 shows nothing red, task 3 is broken."""
    with label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(7))) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


def run_of(running: Backend, prompt: str = "", score: float = 0.9) -> str:
    running.strategy.scores[prompt or "Animal"] = score
    begun = running.client.post("/runs", json={"project": 1, "prompt": prompt, "include_annotated": True}).json()
    return str(finished(running.client, begun["run"]["id"])["id"])


def judge(client: httpx.Client, run: str, task: int, verdict: str, note: str = "") -> httpx.Response:
    return client.post(f"/runs/{run}/review", json={"task": task, "verdict": verdict, "note": note})


def order(client: httpx.Client, run: str, **query: Any) -> list[int]:
    return [one["task"] for one in client.get(f"/runs/{run}/review", params=query).json()["images"]]


def test_verdicts_are_kept_and_order_the_images(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, run_of(running)
    before, asked = fake.pushed(), len(fake.requests)
    assert sorted(order(client, run)) == [1, 2, 4, 5, 6, 7]
    assert judge(client, run, 4, "accept").json() == {"task": 4, "verdict": "accept", "note": ""}
    judge(client, run, 1, "skip")
    judge(client, run, 6, "wrong", "the tail is missing")
    shown = client.get(f"/runs/{run}/review").json()
    assert [one["task"] for one in shown["images"]] == [6, 2, 5, 7, 1, 4]
    assert shown["counts"] == {"": 3, "accept": 1, "skip": 1, "wrong": 1}
    assert (shown["images"][0]["verdict"], shown["images"][0]["note"]) == ("wrong", "the tail is missing")
    judge(client, run, 6, "")
    judge(client, run, 1, "accept")
    assert client.get(f"/runs/{run}/review").json()["counts"] == {"": 4, "accept": 2, "skip": 0, "wrong": 0}
    first = client.get(f"/runs/{run}/review", params={"limit": 4}).json()
    assert (len(first["images"]), first["next"]) == (4, 4)
    assert order(client, run, limit=4, after=4) == [1, 4]
    assert fake.pushed() == before
    assert {request.method for request in fake.requests[asked:]} <= {"GET"}  # the run's own last look may come late
    assert sum(entry["action"] == "review" for entry in client.get("/audit").json()["entries"]) == 5


def test_two_runs_are_compared(running: Backend) -> None:
    first = run_of(running, "animal", 0.9)
    running.strategy.channel["newt"] = 1  # finds nothing
    second = run_of(running, "newt")
    third = run_of(running, "frog", 0.4)
    shown = running.client.get(f"/runs/{first}/review", params={"against": third}).json()["images"]
    assert [(one["task"], one["other"]) for one in shown][:1] == [(1, 0.4)]
    assert shown[-1]["task"] == 2  # both found nothing
    only = running.client.get(f"/runs/{first}/review", params={"against": second}).json()["images"]
    assert (only[0]["state"], only[-1]["task"]) == ("done", 2)


def test_people_review_on_the_page(running: Backend) -> None:
    client, run = running.client, run_of(running)
    form = {"task": "5", "verdict": "wrong", "note": "<b>no tail</b>", "after": "2"}
    done = client.post(f"/runs/{run}/review", data=form, headers=PAGE, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "review?after=2#images")
    page = client.get(f"/runs/{run}/review", headers=PAGE)
    assert "looks wrong" in page.text
    assert "&lt;b&gt;no tail&lt;/b&gt;" in page.text
    assert f'href="{run}/review"' in client.get(f"/runs/{run}", headers=PAGE).text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": 3, "verdict": "accept"}, 409),  # it failed
        ({"task": 77, "verdict": "accept"}, 409),
        ({"task": 1, "verdict": "maybe"}, 400),
        ({"task": "one", "verdict": "skip"}, 400),
        ({"task": 1, "verdict": "skip", "note": "a" * 501}, 400),
        ({"task": 1, "colour": "red"}, 400),
    ],
)
def test_what_makes_no_sense_is_refused(running: Backend, body: dict[str, Any], status: int) -> None:
    run = run_of(running)
    answer = running.client.post(f"/runs/{run}/review", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["cure"]
    assert running.client.get(f"/runs/{run}/review").json()["counts"][""] == 6
    assert running.client.post("/runs/99/review", json={"task": 1}).status_code == 404
    for least in (2, "high", None, "nan"):
        assert running.client.post(f"/runs/{run}/review/accept", json={"least": least}).status_code == 400


def test_accepting_by_score_marks_and_leaves_people_alone(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, run_of(running, score=0.8)
    judge(client, run, 4, "wrong")
    fake.tasks[5] |= {"annotations": [{"id": 1, "result": []}], "total_annotations": 1}
    fake.tasks[6] |= {"drafts": [{"id": 2}]}
    assert client.get(f"/runs/{run}/review/accept", params={"least": 0.81}).json()["made"] == 0
    asked = client.get(f"/runs/{run}/review/accept", params={"least": 0.8}).json()
    assert asked == {"least": 0.8, "made": 2, "people": 2, "gone": 0}
    assert "annotations" not in fake.tasks[1]  # asking made nothing
    page = client.get(f"/runs/{run}/review/accept?least=0.8", headers=PAGE)
    assert "Make 2 annotations" in page.text
    assert client.post(f"/runs/{run}/review/accept", json={"least": 0.8}).json() == asked
    for task in (1, 7):
        (made,) = fake.tasks[task]["annotations"]
        (prediction,) = fake.predictions[task]
        assert made["parent_prediction"] == prediction["id"]
        (region,) = made["result"]
        assert region["meta"]["text"][-1] == f"{UNSEEN}: run {run}, score 0.80, at least 0.8"
        assert region["value"] == prediction["result"][0]["value"]
    assert [len(fake.tasks[task].get("annotations", [])) for task in (2, 4, 5, 6)] == [0, 0, 1, 0]
    again = client.post(f"/runs/{run}/review/accept", json={"least": 0.8}).json()
    assert (again["made"], again["people"]) == (0, 4)  # those that were made count as annotated
    assert any(entry["action"] == "accept" for entry in client.get("/audit").json()["entries"])


def test_what_nobody_looked_at_teaches_nothing_until_it_is_changed(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, run_of(running)
    client.post(f"/runs/{run}/review/accept", json={"least": 0.5})
    moment = datetime.now(UTC)
    (made,) = copy.deepcopy(fake.tasks[1]["annotations"])
    made |= {"created_at": moment.isoformat(), "updated_at": (moment + timedelta(milliseconds=3)).isoformat()}
    created = {"action": "ANNOTATION_CREATED", "annotation": made, "project": {"id": 1}}
    assert list(changes_of(created)) == []
    made["updated_at"] = (moment + timedelta(minutes=1)).isoformat()
    (change,) = changes_of(created | {"action": "ANNOTATION_UPDATED"})
    assert getattr(change, "task", None) == 1
