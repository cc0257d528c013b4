"""``/runs`` over a real socket: JSON and pages, pictures, who may send what; and what is late in /predict."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PilImage

from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import TaskState
from ml_backend.storage.store import Store
from tests.support.harness import IDENTITY, POLYGONS, Backend, backend, encoded, picture
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.redis_server import redis_server
from tests.support.waiting import until

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def url(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encoded(image)).decode()


def tasks(count: int) -> dict[int, dict[str, Any]]:
    """Task 2 shows nothing red, task 3 is broken; each has a picture of its own."""
    found = {n: url(picture(60, 80, (n, n, n + 30, n + 20))) for n in range(1, count + 1)}
    found[2] = url(np.full((60, 80, 3), 128, np.uint8))
    found[3] = "data:image/png;base64,AAAA"
    return {n: {"data": {"image": address}} for n, address in found.items()}


@contextmanager
def connected(folder: Path, fake: LabelStudio, **settings: Any) -> Iterator[Backend]:
    with backend(folder, label_studio_url=fake.url, label_studio_api_key=TOKEN, **settings) as running:
        yield running


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(6))) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


def finished(client: httpx.Client, run_id: str) -> dict[str, Any]:
    until(lambda: client.get(f"/runs/{run_id}").json()["state"] == "finished", "the run is finished")
    found: dict[str, Any] = client.get(f"/runs/{run_id}").json()
    return found


def test_a_run_from_the_wish_to_the_pictures(running: Backend, fake: LabelStudio) -> None:
    client = running.client
    dry = client.post("/runs", json={"project": 1, "dry_run": True})
    assert (dry.status_code, dry.json()["count"], dry.json()["run"]) == (200, 6, None)
    assert client.get("/runs").json() == {"runs": []}

    answer = client.post("/runs", json={"project": 1, "prompt": "animal"})
    assert answer.status_code == 201, answer.text
    begun = answer.json()
    assert (begun["joined"], begun["count"], begun["run"]["prompt"]) == (False, 6, "animal")
    run = finished(client, begun["run"]["id"])
    assert run["counts"] == {"pending": 0, "leased": 0, "done": 4, "abstained": 1, "failed": 1, "skipped": 0}
    assert (run["total"], run["left"], run["model_version"]) == (6, 0, begun["run"]["model_version"])
    assert [each["id"] for each in client.get("/runs?project=1").json()["runs"]] == [run["id"]]
    assert client.get("/runs?project=2").json() == {"runs": []}
    assert set(fake.predictions) == {1, 2, 4, 5, 6}

    failed = client.get(f"/runs/{run['id']}/tasks", params={"state": "failed"}).json()
    assert [(entry["task"], failed["next"]) for entry in failed["tasks"]] == [(3, None)]
    assert failed["tasks"][0]["reason"]
    first = client.get(f"/runs/{run['id']}/tasks", params={"limit": 4}).json()
    assert ([entry["task"] for entry in first["tasks"]], first["next"]) == ([1, 2, 3, 4], 4)

    page = client.get(f"/runs/{run['id']}", headers=PAGE)
    assert page.headers["content-type"].startswith("text/html")
    assert "script" not in page.text
    assert 'http-equiv="refresh"' not in page.text  # nothing changes any more
    assert f'src="{run["id"]}/tasks/1/picture"' in page.text
    assert failed["tasks"][0]["reason"].replace("'", "&#39;") in page.text
    assert "Retry failed images" in page.text
    assert f'href="runs/{run["id"]}"' in client.get("/runs", headers=PAGE).text


def test_pictures_of_an_undone_run_show_no_regions(running: Backend, fake: LabelStudio) -> None:
    client = running.client
    run = finished(client, client.post("/runs", json={"project": 1, "prompt": "animal"}).json()["run"]["id"])
    address = f"/runs/{run['id']}/tasks/5/picture"
    with_regions = client.get(address)
    assert "max-age" in with_regions.headers["cache-control"]
    assert client.post(f"/runs/{run['id']}/undo", json={}).status_code < 300
    until(lambda: client.get(f"/runs/{run['id']}").json()["counts"]["skipped"] == 5, "the run is undone")
    without = client.get(address)
    assert without.content != with_regions.content
    assert without.headers["cache-control"] == "no-store"
    assert "tasks/5/picture?skipped" in client.get(f"/runs/{run['id']}", headers=PAGE).text


def test_pictures_show_what_was_pushed(running: Backend, fake: LabelStudio) -> None:
    run = finished(running.client, running.client.post("/runs", json={"project": 1}).json()["run"]["id"])
    answer = running.client.get(f"/runs/{run['id']}/tasks/5/picture")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert "max-age" in answer.headers["cache-control"]
    shown = np.asarray(PilImage.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
    assert shown.shape == (60, 80, 3)
    plain = picture(60, 80, (5, 5, 35, 25)).astype(int)
    inside = np.zeros((60, 80), bool)
    inside[8:22, 8:32] = True
    outside = np.ones((60, 80), bool)
    outside[1:29, 1:39] = False
    difference = np.abs(shown - plain).sum(axis=2)
    assert difference[inside].mean() > 40  # tinted
    assert difference[outside].mean() < 6
    for task in (3, 77):  # broken; not of this run
        missing = running.client.get(f"/runs/{run['id']}/tasks/{task}/picture")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "image/svg+xml")


def test_two_press_the_button_at_once(running: Backend) -> None:
    running.strategy.gate.clear()
    first = running.client.post("/runs", json={"project": 1})
    second = running.client.post("/runs", json={"project": 1, "limit": 3})
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["joined"] is True
    assert second.json()["run"]["id"] == first.json()["run"]["id"]
    assert any("limit" in warning for warning in second.json()["warnings"])
    running.strategy.gate.set()


@pytest.mark.parametrize("accept", [{}, PAGE])
def test_a_large_project_is_listed_in_the_background(
    running: Backend, fake: LabelStudio, monkeypatch: pytest.MonkeyPatch, accept: dict[str, str]
) -> None:
    monkeypatch.setattr("ml_backend.api.runs._LISTING_SECONDS", 0.3)
    fake.gate.clear()
    answer = running.client.post("/runs", json={"project": 1}, headers=accept)
    assert answer.status_code == (303 if accept else 202), answer.text
    (run,) = running.client.get("/runs").json()["runs"]
    assert run["state"] == "preparing"
    assert "listing its tasks" in running.client.get(f"/runs/{run['id']}", headers=PAGE).text
    fake.gate.set()
    assert finished(running.client, run["id"])["total"] == 6


def test_the_backend_ends_while_a_project_is_listed(
    tmp_path: Path, fake: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.api.runs._LISTING_SECONDS", 0.1)
    monkeypatch.setattr("ml_backend.runs.listing.PAGE", 2)
    fake.gate.clear()
    with connected(tmp_path / "data", fake) as running:
        assert running.client.post("/runs", json={"project": 1}).status_code == 202
        threading.Timer(0.5, fake.gate.set).start()
    with connected(tmp_path / "data", fake) as running:
        assert running.client.get("/runs").json() == {"runs": []}  # nothing half is left


def test_cancel_resume_retry(running: Backend, fake: LabelStudio) -> None:
    client = running.client
    running.strategy.gate.clear()
    run_id = client.post("/runs", json={"project": 1}).json()["run"]["id"]
    assert client.post(f"/runs/{run_id}/cancel").json()["state"] == "cancelled"
    running.strategy.gate.set()
    until(lambda: client.get(f"/runs/{run_id}").json()["counts"]["leased"] == 0, "nothing is at work")
    page = client.get(f"/runs/{run_id}", headers=PAGE).text
    assert "Resume" in page
    assert client.post(f"/runs/{run_id}/resume").json()["state"] in ("active", "finished")
    finished(client, run_id)
    fake.tasks[3] = {"data": {"image": url(picture())}}
    assert client.post(f"/runs/{run_id}/retry").status_code == 200
    assert finished(client, run_id)["counts"]["failed"] == 0
    refused = client.post(f"/runs/{run_id}/cancel")
    assert (refused.status_code, "finished" in refused.json()["error"]) == (409, True)
    assert all(len(found) == 1 for found in fake.predictions.values())


def test_the_form_of_the_page(running: Backend) -> None:
    base = str(running.client.base_url).rstrip("/")
    headers = PAGE | {"Origin": base}
    form = {"project": "1", "view": "", "prompt": "", "limit": "2", "only_missing": "true"}
    answer = running.client.post("/runs", data=form, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "runs/1")
    page = running.client.post("/runs", data=form, headers=headers, follow_redirects=True)
    assert "<h1>Run" in page.text
    stopped = running.client.post("/runs/1/nonsense", headers=headers)
    assert (stopped.status_code, "That did not work" in stopped.text) == (404, True)
    back = running.client.post("/runs/2/cancel", headers=headers)
    assert back.status_code in (303, 404, 409)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "SELF"}, 403),
        ({"Origin": "SELF"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_our_own_page_may_send_forms(running: Backend, headers: dict[str, str], status: int) -> None:
    base = str(running.client.base_url).rstrip("/")
    sent = {name: base if value == "SELF" else value for name, value in headers.items()}
    body = {"project": 1, "dry_run": True}
    assert running.client.post("/runs", json=body, headers=sent).status_code == status
    assert running.client.post("/runs/9/cancel", headers=sent).status_code == (404 if status == 200 else 403)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/runs", {"project": 0}, 400, "project"),
        ("POST", "/runs", {}, 400, "project"),
        ("POST", "/runs", [], 400, "the body"),
        ("POST", "/runs", {"project": 1, "colour": "red"}, 400, "colour"),
        ("POST", "/runs", {"project": 7}, 404, "not found (404)"),
        ("GET", "/runs/99", None, 404, "there is no run"),
        ("GET", "/runs/../etc", None, 404, ""),
        ("GET", "/runs/x'y", None, 404, "there is no run"),
        ("GET", "/runs?limit=many", None, 400, "limit"),
        ("GET", "/runs/1/tasks?state=odd", None, 400, "state"),
        ("POST", "/runs/1/explode", {}, 404, "actions are"),
    ],
)
def test_errors_say_what_is_wrong(running: Backend, method: str, path: str, body: Any, status: int, said: str) -> None:
    running.client.post("/runs", json={"project": 1})
    answer = running.client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert {"id", "error", "cure"} == answer.json().keys()
    shown = running.client.request(method, path, json=body, headers=PAGE)
    assert (shown.status_code, shown.headers["content-type"][:9]) in ((status, "text/html"), (404, "applicati"))


def test_names_from_outside_cannot_become_markup(running: Backend) -> None:
    nasty = "<script>alert(1)</script>"
    run_id = running.client.post("/runs", json={"project": 1, "prompt": nasty}).json()["run"]["id"]
    for path in ("/runs", f"/runs/{run_id}", "/runs/<script>", f"/runs/{run_id}?state=<script>"):
        answer = running.client.get(path, headers=PAGE)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        for script in re.findall(r"<script[^>]*>(.*?)</script>", answer.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy, "a script that is not ours"
        assert answer.text.count("<script") == answer.text.count("</script>")
        assert nasty not in answer.text


def test_runs_ask_for_the_same_password(tmp_path: Path, fake: LabelStudio) -> None:
    with connected(tmp_path / "data", fake, basic_auth_user="u", basic_auth_pass="p") as running:
        for path in ("/runs", "/runs/1", "/runs/1/tasks", "/runs/1/tasks/1/picture"):
            assert running.client.get(path).status_code == 401
        assert running.client.post("/runs", json={"project": 1}).status_code == 401
        assert running.client.get("/runs", auth=("u", "p")).status_code == 200


def test_without_label_studio_runs_can_be_looked_at_only(tmp_path: Path) -> None:
    with backend(tmp_path / "data") as running:
        assert running.client.get("/runs").json() == {"runs": []}
        refused = running.client.post("/runs", json={"project": 1})
        assert (refused.status_code, "LABEL_STUDIO_URL" in refused.json()["cure"]) == (503, True)
        assert "LABEL_STUDIO_URL" in running.client.get("/runs", headers=PAGE).text


def test_with_redis_the_backend_leaves_the_work_to_workers(tmp_path: Path, fake: LabelStudio) -> None:
    with redis_server(tmp_path / "redis") as redis, connected(tmp_path / "data", fake, redis_url=redis.url) as running:
        run_id = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
        assert "int-backend worker" in running.client.get(f"/runs/{run_id}", headers=PAGE).text
        time.sleep(0.5)
        assert running.client.get(f"/runs/{run_id}").json()["left"] == 6
        redis.kill()
        assert "cannot be used" in running.client.get("/runs", headers=PAGE).text
        assert running.client.post("/runs", json={"project": 1, "prompt": "other"}).status_code == 503
        assert len(running.client.get("/runs").json()["runs"]) == 2  # it is kept, and woken by the first worker


# --- /predict ---------------------------------------------------------------------------------------------------------


def asked(running: Backend, fake: LabelStudio, *ids: int) -> list[Any]:
    entries = [{"id": task, **fake.tasks[task]} for task in ids]
    body = {"tasks": entries, "project": "1.1", "label_config": POLYGONS, "params": {"context": None}}
    answer: list[Any] = running.client.post("/predict", json=body).json()["results"]
    return answer


def test_what_is_late_becomes_a_run_and_is_pushed(tmp_path: Path, fake: LabelStudio) -> None:
    with connected(tmp_path / "data", fake, deadline=0.5) as running:
        running.setup({"prompt": "animal"})
        running.strategy.gate.clear()
        assert asked(running, fake, 1, 4, 5) == [[], [], []]
        (run,) = running.client.get("/runs").json()["runs"]
        assert (run["total"], run["state"], run["prompt"]) == (3, "active", "animal")
        assert asked(running, fake, 1, 4, 6) == [[], [], []]  # joins it
        (run,) = running.client.get("/runs").json()["runs"]
        assert run["total"] == 4
        running.strategy.gate.set()
        finished(running.client, run["id"])
        assert {task: len(found) for task, found in fake.predictions.items()} == {1: 1, 4: 1, 5: 1, 6: 1}
        versions = {entry["model_version"] for entry in fake.pushed()}
        assert versions == {run["model_version"], running.setup({"prompt": "animal"})}
        assert all(entry["result"] for entry in asked(running, fake, 1, 4))  # nothing under way: answered


def test_while_a_run_is_under_way_it_pushes_and_predict_does_not(tmp_path: Path, fake: LabelStudio) -> None:
    with connected(tmp_path / "data", fake, run_batch=1, deadline=3.0) as running:
        version = running.setup(None)
        ledger = Ledger(Store.in_folder(tmp_path / "data").database)
        running.strategy.gate.clear()
        run_id = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
        until(lambda: ledger.progress(run_id).counts[TaskState.LEASED] >= 2, "some are at work")
        began = time.monotonic()
        assert asked(running, fake, 1, 2, 4, 5, 6) == [[]] * 5
        assert asked(running, fake, 1) == [[]]  # at work: it will be pushed in a moment
        assert time.monotonic() - began < 3.0  # no waiting for what others do
        running.strategy.gate.set()
        finished(running.client, run_id)
        assert {entry["model_version"] for entry in fake.pushed()} == {version}
        assert all(len(found) == 1 for found in fake.predictions.values())


def test_an_annotator_gets_an_answer_for_a_task_that_only_waits(tmp_path: Path, fake: LabelStudio) -> None:
    """The run then finds the prediction that Label Studio kept, and leaves the task alone."""
    with connected(tmp_path / "data", fake, redis_url="redis://127.0.0.1:1/1") as running:  # nobody does runs
        running.setup(None)
        assert running.client.post("/runs", json={"project": 1}).status_code == 503
        assert asked(running, fake, 1, 4) == [[], []]
        (answer,) = asked(running, fake, 4)
        assert answer["result"]


@pytest.mark.parametrize("settings", [{"runs_from_predict": False}, {"label_studio_api_key": ""}])
def test_without_token_or_on_request_predict_makes_no_runs(
    tmp_path: Path, fake: LabelStudio, settings: dict[str, Any]
) -> None:
    given = {"label_studio_url": fake.url, "label_studio_api_key": TOKEN, **settings}
    with backend(tmp_path / "data", deadline=0.5, identity=IDENTITY, **given) as running:
        running.setup(None)
        running.strategy.gate.clear()
        assert asked(running, fake, 1, 4) == [[], []]
        assert running.client.get("/runs").json() == {"runs": []}
        running.strategy.gate.set()
        until(lambda: all(asked(running, fake, 1, 4)), "the background has finished them")


def test_a_run_of_nothing_but_one_failure_is_stopped_and_says_the_reason(tmp_path: Path) -> None:
    broken = {n: {"data": {"image": f"data:image/png;base64,AAAA{n:04d}"}} for n in range(1, 61)}
    fake = LabelStudio(valid={f"Token {TOKEN}"}, tasks=broken)
    with label_studio(fake), connected(tmp_path, fake, run_batch=4) as running:
        client = running.client
        run = client.post("/runs", json={"project": 1}).json()["run"]["id"]
        until(lambda: client.get(f"/runs/{run}").json()["state"] == "stopped", "the run is stopped")
        shown = client.get(f"/runs/{run}").json()
        assert 10 <= shown["counts"]["failed"] < 40
        assert "failed for one reason: this is not an image" in shown["why"]
        until(lambda: client.get(f"/runs/{run}").json()["counts"]["leased"] == 0, "nothing is at work")
        page = client.get(f"/runs/{run}", headers=PAGE).text
        assert "images: this is not an image" in page


def test_a_good_image_that_is_slower_than_broken_ones_keeps_the_run_going(tmp_path: Path) -> None:
    mixed = {n: {"data": {"image": "data:image/png;base64,AAAA"}} for n in range(2, 40)} | tasks(1)
    fake = LabelStudio(valid={f"Token {TOKEN}"}, tasks=mixed)
    with label_studio(fake), connected(tmp_path, fake, run_batch=4) as running:
        run = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
        assert finished(running.client, run)["counts"]["failed"] == 37


def test_the_least_certain_come_first_and_every_picture_links_to_its_task(tmp_path: Path) -> None:
    fake = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(30))
    public = {"label_studio_public_url": "https://labels.example/ls/"}
    with label_studio(fake), connected(tmp_path, fake, **public) as running:
        client = running.client
        run = client.post("/runs", json={"project": 1}).json()["run"]["id"]
        finished(client, run)
        first = client.get(f"/runs/{run}/tasks?order=doubt&limit=20").json()
        rest = client.get(f"/runs/{run}/tasks?order=doubt&limit=20&after={first['next']}").json()
        assert (len(first["tasks"]), len(rest["tasks"]), rest["next"]) == (20, 9, None)
        scores = [entry["score"] for entry in first["tasks"] + rest["tasks"]]
        assert scores == sorted(scores)
        assert client.get(f"/runs/{run}/tasks?order=size").status_code == 400
        page = client.get(f"/runs/{run}?order=doubt", headers=PAGE).text
        lowest = first["tasks"][0]["task"]
        assert page.index(f"/tasks/{lowest}/picture") < page.index(f"/tasks/{first['tasks'][1]['task']}/picture")
        assert f'href="https://labels.example/ls/projects/1/data?task={lowest}"' in page
        assert f"{run}?after=24&amp;order=doubt" in page
