"""Taking a run back over HTTP: asked first, joined by who asks twice, answered before a large run has ended."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.testclient import TestClient

from ml_backend.api.run_actions import undo as run_undo
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.types import Run, RunRequest, RunSpec, RunState
from ml_backend.runs.undo import Tally
from tests.support.waiting import until

SPEC = RunSpec(RunRequest(project=1), "<View/>", None, "int-nano-int-01234567", "polyp", "int", "0" * 64)
RUN = Run("5", SPEC, RunState.FINISHED, "", datetime(2026, 11, 1, tzinfo=UTC))
PAGE = {"Accept": "text/html"}


@dataclass
class World:
    """A run that can be undone: it takes until ``go`` is set, and fails if ``error`` is."""

    go: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    begun: int = 0
    noted: list[tuple[str, ...]] = field(default_factory=list)
    undoing: Any = None

    def __post_init__(self) -> None:
        self.undoing = self
        self.ledger = SimpleNamespace(get=lambda run_id: RUN)
        self.go.set()

    def count(self, run_id: str) -> Tally:
        assert run_id == "5"
        return Tally(3, 2, 1)

    def undo(self, run_id: str) -> Tally:
        self.begun += 1
        assert self.go.wait(30)
        if self.error:
            raise self.error
        return Tally(3, 2, 1)

    def note(self, *said: str) -> None:
        self.noted.append(said)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.audit = world
    runtime: Any = world

    def served(endpoint: run_undo.Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request, runtime)
            except (LedgerError, LabelStudioError) as error:
                return Response(str(error), 418)

        return answer

    app.add_api_route("/runs/{run_id}/undo", served(run_undo.ask), methods=["GET"], response_model=None)
    app.add_api_route("/runs/{run_id}/undo", served(run_undo.undo), methods=["POST"], response_model=None)
    with TestClient(app, follow_redirects=False) as made:
        yield made
        world.go.set()
        until(lambda: not run_undo._under_way, "nothing is left at work")


COUNTED = {"deleted": 3, "kept": 2, "gone": 1}


def test_it_is_asked_what_would_be_deleted_before_anything_is(client: TestClient, world: World) -> None:
    assert client.get("/runs/5/undo").json() == COUNTED | {"finished": False}
    page = client.get("/runs/5/undo", headers=PAGE)
    assert page.headers["content-type"].startswith("text/html")
    assert "Delete 3 predictions" in page.text
    assert (world.begun, world.noted) == (0, [])


def test_programs_get_the_figures_and_people_the_page_of_the_run(client: TestClient, world: World) -> None:
    answer = client.post("/runs/5/undo")
    assert (answer.status_code, answer.json()) == (200, COUNTED | {"finished": True})
    answer = client.post("/runs/5/undo", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "../5")
    assert world.begun == 2
    assert [said[2:] for said in world.noted] == [("undo", "run 5")] * 2


def test_a_large_run_goes_on_after_the_answer_and_a_second_request_joins_it(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_undo, "_WAIT", 0.05)
    world.go.clear()
    for _ in range(2):
        answer = client.post("/runs/5/undo")
        assert answer.status_code == 202
        assert answer.json() == {"deleted": 0, "kept": 0, "gone": 0, "finished": False}
    assert (world.begun, len(world.noted)) == (1, 1)
    world.go.set()
    until(lambda: not run_undo._under_way, "it has ended")
    monkeypatch.setattr(run_undo, "_WAIT", 10.0)
    assert client.post("/runs/5/undo").json() == COUNTED | {"finished": True}
    assert world.begun == 2


def test_what_goes_wrong_is_the_answer_and_in_the_log_for_who_has_left(
    client: TestClient, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.error = LedgerError("run 5 is active; cancel it first")
    answer = client.post("/runs/5/undo")
    assert (answer.status_code, answer.text) == (418, "run 5 is active; cancel it first")
    until(lambda: not run_undo._under_way, "it has ended")
    assert "cancel it first" in caplog.text
    caplog.clear()
    world.error = None
    assert client.post("/runs/5/undo").status_code == 200
    assert [record for record in caplog.records if record.name == run_undo.__name__] == []


def test_a_backend_that_does_not_know_label_studio_says_so(client: TestClient, world: World) -> None:
    world.undoing = None
    for answer in (client.get("/runs/5/undo"), client.post("/runs/5/undo")):
        assert answer.status_code == 418
        assert "does not know Label Studio" in answer.text
    assert world.begun == 0
