"""``/runs/ID/verify``: what Label Studio lost is counted first, and pushed again when that is confirmed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.api.audit import note
from ml_backend.runs.undo import Undoing
from ml_backend.runs.verify import Verifying
from tests.integration.runs.test_web import PAGE, connected, finished, tasks, url
from tests.support.harness import Backend, backend, picture
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.waiting import until


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(6))) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


def begun(running: Backend) -> str:
    run: str = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
    assert finished(running.client, run)["counts"]["failed"] == 1  # task 3 is broken
    return run


def lose(fake: LabelStudio) -> None:
    """As a restored database does; and task 5 has its prediction twice."""
    del fake.predictions[1], fake.predictions[4]
    fake.predictions[5].append({**fake.predictions[5][0], "id": 7000})
    del fake.tasks[6]


def counts(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name not in ("at", "trouble")}


LOST = {"looked": 5, "there": 2, "missing": 2, "doubled": 1, "deleted": 1, "missing_tasks": [1, 4]}


def audited(client: httpx.Client) -> list[tuple[str, str]]:
    entries = client.get("/audit").json()["entries"]
    return [(entry["action"], entry["what"]) for entry in entries if entry["action"] == "verify"]


def test_counted_first_then_pushed(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, begun(running)
    assert client.get(f"/runs/{run}/verify").json()["state"] == "none"
    lose(fake)
    before = fake.pushed()
    found = client.post(f"/runs/{run}/verify")
    assert (found.status_code, counts(found)) == (200, {"state": "done", **LOST, "pushed": 0, "removed": 0})
    assert fake.pushed() == before
    assert finished(client, run)["counts"]["failed"] == 1
    assert client.get(f"/runs/{run}/verify").json() == found.json()

    pushed = client.post(f"/runs/{run}/verify", json={"push": True})
    assert (pushed.status_code, counts(pushed)) == (200, {"state": "done", **LOST, "pushed": 2, "removed": 1})
    finished(client, run)
    assert {task: len(entries) for task, entries in fake.predictions.items()} == {1: 1, 2: 1, 4: 1, 5: 1, 6: 1}
    again = client.post(f"/runs/{run}/verify", json={"push": True}).json()
    assert (again["there"], again["missing"], again["pushed"], again["removed"]) == (4, 0, 0, 0)
    assert audited(client) == [
        ("verify", f"run {run}: push what is missing"),
        ("verify", f"run {run}: push what is missing"),
        ("verify", f"run {run}"),
    ]


def test_the_pages_ask_before_they_push(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, begun(running)
    assert f'href="{run}/verify"' in client.get(f"/runs/{run}", headers=PAGE).text
    page = client.get(f"/runs/{run}/verify", headers=PAGE)
    assert "Compare with Label Studio" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    lose(fake)
    answer = client.post(f"/runs/{run}/verify", data={}, headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "verify")
    page = client.get(f"/runs/{run}/verify", headers=PAGE)
    assert "Push 2 missing predictions" in page.text
    assert "1, 4" in page.text
    assert 4 not in fake.predictions
    client.post(f"/runs/{run}/verify", data={"push": "true"}, headers=PAGE)
    assert (
        "2 tasks done again and pushed; 1 second prediction removed"
        in client.get(f"/runs/{run}/verify", headers=PAGE).text
    )
    finished(client, run)
    assert len(fake.predictions[4]) == 1
    client.post(f"/runs/{run}/verify", data={}, headers=PAGE)
    assert "Nothing is missing" in client.get(f"/runs/{run}/verify", headers=PAGE).text


def test_a_comparison_under_way_is_shown_and_joined(
    running: Backend, fake: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.api.run_actions.verify._WAIT", 0.1)
    client, run = running.client, begun(running)
    fake.gate.clear()
    first = client.post(f"/runs/{run}/verify")
    assert (first.status_code, first.json()["state"]) == (202, "running")
    assert client.get("/health").status_code == 200  # the event loop is free
    page = client.get(f"/runs/{run}/verify", headers=PAGE).text
    assert "under way" in page
    assert 'id="renewal"' in page
    assert client.post(f"/runs/{run}/verify").status_code == 202
    refused = client.post(f"/runs/{run}/verify", json={"push": True})
    assert (refused.status_code, "is being compared" in refused.json()["error"]) == (409, True)
    assert len(audited(client)) == 1
    fake.gate.set()
    until(lambda: client.get(f"/runs/{run}/verify").json()["state"] == "done", "the comparison is done")
    assert client.get(f"/runs/{run}/verify").json()["there"] == 5


def test_a_run_at_work_is_compared_and_not_pushed(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, begun(running)
    lose(fake)
    running.strategy.gate.clear()
    fake.tasks[3] = {"data": {"image": url(picture())}}
    client.post(f"/runs/{run}/retry")
    assert client.post(f"/runs/{run}/verify").json()["missing"] == 2
    refused = client.post(f"/runs/{run}/verify", json={"push": True})
    assert (refused.status_code, "under way" in refused.json()["error"]) == (409, True)
    seen = client.get(f"/runs/{run}/verify")
    assert (seen.json()["state"], "under way" in seen.json()["trouble"]) == ("failed", True)
    assert "is under way; verify it again" in client.get(f"/runs/{run}/verify", headers=PAGE).text
    running.strategy.gate.set()


def test_a_cancelled_run_goes_on_with_what_is_missing(running: Backend, fake: LabelStudio) -> None:
    client, run = running.client, begun(running)
    lose(fake)
    running.strategy.gate.clear()
    fake.tasks[3] = {"data": {"image": url(picture())}}
    client.post(f"/runs/{run}/retry")
    client.post(f"/runs/{run}/cancel")
    running.strategy.gate.set()
    until(lambda: client.get(f"/runs/{run}").json()["counts"]["leased"] == 0, "nothing is at work")
    assert client.post(f"/runs/{run}/verify", json={"push": True}).json()["pushed"] == 2
    assert finished(client, run)["counts"]["failed"] == 0


@pytest.mark.parametrize("body", [{"push": "no"}, {"push": 1.5}, {"pull": True}, ["push"]])
def test_bodies_that_make_no_sense(running: Backend, body: object) -> None:
    assert running.client.post("/runs/1/verify", json=body).status_code == 400


def test_what_cannot_be_verified(running: Backend, fake: LabelStudio, tmp_path: Path) -> None:
    client, run = running.client, begun(running)
    assert client.get("/runs/99/verify").status_code == 404
    assert client.post("/runs/99/verify").status_code == 404
    fake.valid = {"Token other"}
    refused = client.post(f"/runs/{run}/verify")
    assert (refused.status_code, "token" in refused.json()["error"]) == (502, True)
    assert "refused the" in client.get(f"/runs/{run}/verify", headers=PAGE).text
    with backend(tmp_path / "alone") as alone:
        assert alone.client.post("/runs/1/verify").status_code == 502


@pytest.mark.parametrize(("action", "work"), [("verify", Verifying.compare), ("undo", Undoing.undo)])
def test_of_two_requests_at_once_one_joins_the_other(
    running: Backend, monkeypatch: pytest.MonkeyPatch, action: str, work: Callable[..., Any]
) -> None:
    """Both are asked to write into the audit log before either has begun."""
    client, run = running.client, begun(running)
    met, began = threading.Barrier(2), []

    async def note_together(*args: Any) -> None:
        await asyncio.to_thread(met.wait, 30)
        await note(*args)

    def counted(*args: Any) -> Any:
        began.append(args)
        return work(*args)

    monkeypatch.setattr(f"ml_backend.api.run_actions.{action}.note", note_together)
    monkeypatch.setattr(work.__module__ + "." + work.__qualname__, counted)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.post(f"/runs/{run}/{action}"), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(began) == 1
