"""The form of a new run: projects and views to choose from, and what was typed when a run is refused."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs.test_web import PAGE, connected, finished, tasks
from tests.support.conversation import recorded
from tests.support.harness import Backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

NASTY = '"><script>alert(1)</script>'


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(4), views={3: "By doubt", 4: "<b>Mine</b>"})
    made.project |= {"title": "Frogs & newts"}
    made.others = [recorded("project") | {"id": 9, "title": "Other"}]
    with label_studio(made) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


class Fields(HTMLParser):
    """What the form for a run, and the choice of its project, hold: values by name, and the entries of lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.entries: dict[str, list[str]] = {}
        self.marked: dict[str, str] = {}
        self._select = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("aria-invalid"):
            self.marked[given["name"]] = given["aria-describedby"]
        if tag == "select":
            self._select = given["name"]
            self.entries[self._select] = []
        elif tag == "option":
            self.entries[self._select].append(given["value"])
            if "selected" in given:
                self.values[self._select] = given["value"]
        elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.values[given["name"]] = given.get("value", "")


def test_projects_and_views_are_chosen_from_lists(running: Backend, fake: LabelStudio) -> None:
    client = running.client
    page = client.get("/runs", headers=PAGE)
    fields = Fields(page.text)
    assert fields.entries == {"project": ["", "1", "9"]}
    assert "1 Frogs &amp; newts" in page.text
    assert not any(request.path == "/api/dm/views" for request in fake.requests)

    page = client.get("/runs?new=1&project=1&limit=2&prompt=newt", headers=PAGE)
    fields = Fields(page.text)
    assert fields.entries["view"] == ["", "3", "4"]
    assert "4 &lt;b&gt;Mine&lt;/b&gt;" in page.text
    assert fields.values | {"project": "1", "limit": "2", "prompt": "newt"} == fields.values
    assert "<script" not in page.text
    assert fields.entries["project"] == ["", "1", "9"]
    (listed,) = {request.target for request in fake.requests if request.path == "/api/projects"}
    assert "include=id" in listed  # counting tasks and annotations of all projects takes Label Studio long

    form = {"project": "1", "view": "3", "limit": "2", "prompt": "newt"}
    begun = client.post("/runs", data=form, headers=PAGE)
    assert (begun.status_code, begun.headers["location"]) == (303, "runs/1")
    assert finished(client, "1")["view"] == 3
    assert 'href="../runs?new=1&amp;project=1#new"' in client.get("/projects/1", headers=PAGE).text


@pytest.mark.parametrize(
    ("change", "status", "field", "said"),
    [
        ({"view": "77"}, 400, "view", "project 1 has no view 77; it has 3 (By doubt), 4 (&lt;b&gt;Mine&lt;/b&gt;)"),
        ({"view": NASTY}, 400, "view", "valid integer"),
        ({"limit": "-3"}, 400, "limit", "greater than or equal to 1"),
        ({"limit": NASTY}, 400, "limit", "valid integer"),
        ({"prompt": NASTY * 100}, 400, "prompt", "at most 2000 characters"),
        ({"project": "77"}, 404, "project", "has no project 77"),
        ({"project": NASTY}, 400, "project", "valid integer"),
        ({"only_missing": "perhaps"}, 400, "only_missing", "valid boolean"),
        ({"colour": "red"}, 400, "", "colour"),
    ],
)
def test_what_was_typed_stays_when_it_is_refused(
    running: Backend, change: dict[str, str], status: int, field: str, said: str
) -> None:
    form = {
        "project": "1",
        "view": "4",
        "prompt": "a 'red' <newt>",
        "limit": "12",
        "include_annotated": "true",
    } | change
    page = running.client.post("/runs", data=form, headers=PAGE)
    assert (page.status_code, page.headers["content-type"][:9]) == (status, "text/html")
    fields = Fields(page.text)
    kept = {name: value for name, value in form.items() if name != "colour"}
    if field == "project":
        del kept["view"]  # it was one of another project's
    if field == "only_missing":
        kept["only_missing"] = "true"
    assert fields.values | kept == fields.values
    assert fields.marked == ({field: "refused"} if field else {})
    assert 'role="alert"' in page.text
    assert said in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert running.client.get("/runs").json() == {"runs": []}


def test_an_alert_without_a_field(running: Backend, fake: LabelStudio) -> None:
    fake.faults["GET ml"] = [403, 403]  # the token's user may list projects, not connections
    fake.faults["GET tasks"] = [403]
    page = running.client.post("/runs", data={"project": "1", "prompt": "newt"}, headers=PAGE)
    assert page.status_code == 502
    assert Fields(page.text).values["prompt"] == "newt"
    assert Fields(page.text).marked == {}
    assert "may not do that (403)" in page.text


def test_without_label_studio_the_ids_are_typed(running: Backend, fake: LabelStudio) -> None:
    fake.down = lambda: True
    page = running.client.get("/runs?new=1&project=1&view=3", headers=PAGE)
    fields = Fields(page.text)
    assert page.text.count("Label Studio does not answer") == 1
    assert (fields.entries, fields.values["project"], fields.values["view"]) == ({}, "1", "3")
    fake.down = lambda: False
    fake.faults["GET projects"] = [500]
    form = {"project": "1", "view": "x", "limit": "2"}
    refused = running.client.post("/runs", data=form, headers=PAGE)
    assert Fields(refused.text).values | form == Fields(refused.text).values
    begun = running.client.post("/runs", data=form | {"view": "3"}, headers=PAGE)
    assert begun.headers["location"] == "runs/1"


def test_a_silent_label_studio_holds_up_no_page(
    tmp_path: Path, fake: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr("ml_backend.api.run_actions.form.PATIENCE", 0.2)

    def wait() -> bool:
        answered.wait(30)
        return False

    with connected(tmp_path / "data", fake) as running:
        fake.down = wait  # it takes every request and answers none
        try:
            for project in ("1", "2", "3", "4", "1"):
                page = running.client.get(f"/runs?new=1&project={project}", headers=PAGE)
                assert page.text.count("Label Studio does not answer") == 1
            assert sum(request.path == "/api/projects" for request in fake.requests) <= 2
        finally:
            answered.set()


def test_warnings_are_shown_as_they_are_in_json(running: Backend, fake: LabelStudio) -> None:
    client = running.client
    fake.project |= {"show_collab_predictions": False, "evaluate_predictions_automatically": True}
    told: Any = client.post("/runs", json={"project": 1, "dry_run": True}).json()["warnings"]
    assert len(told) >= 2
    running.strategy.gate.clear()
    client.post("/runs", data={"project": "1"}, headers=PAGE)
    shown = html.unescape(client.get("/runs/1", headers=PAGE).text)
    assert [text for text in told if text not in shown] == []
    assert "under way already" not in shown
    client.post("/runs", data={"project": "1", "limit": "2"}, headers=PAGE)
    shown = client.get("/runs/1", headers=PAGE).text
    assert "under way already" in shown
    assert "made with another limit" in shown
    running.strategy.gate.set()


@pytest.mark.parametrize(
    "odd", [b"[]", b'{"results": 5}', b'{"results": [{"id": "x"}, 7], "count": 2}', b"<html>", b"{}"]
)
def test_odd_answers_of_label_studio_break_no_page(running: Backend, fake: LabelStudio, odd: bytes) -> None:
    fake.files |= {"/api/projects": odd, "/api/dm/views": odd}
    for address in ("/runs", "/runs?new=1&project=1"):
        assert running.client.get(address, headers=PAGE).status_code == 200
    refused = running.client.post("/runs", data={"project": "1", "view": "3"}, headers=PAGE)
    assert (refused.status_code, Fields(refused.text).values["view"]) in ((400, "3"), (502, "3"))
