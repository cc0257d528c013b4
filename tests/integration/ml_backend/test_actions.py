"""Every action that the application has, found by its routes: whose pages may ask for it, who may, and as what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from ml_backend.api.app import create_app
from ml_backend.settings import Settings
from tests.integration.runs.test_web import PAGE, connected, finished, tasks
from tests.support.harness import IDENTITY, Backend, RedThings
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.routes import Place, places
from tests.support.waiting import until

LOGIN = ("labels", "a long password")
VALUES = {"project": 1, "run_id": "1", "task": 1, "action": "cancel"}
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
]
_OTHER_NAMES = {"prompt1": "sides", "strategy1": "sides", "prompt2": "sides", "strategy2": "sides", "compare": "sides"}
"""Fields of forms that are written in another way as JSON."""


def actions(folder: Path) -> list[Place]:
    app = create_app(Settings(data_dir=folder), load=RedThings, identity=IDENTITY)
    return places(app, "POST", VALUES)


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    with label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(5))) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


def page_of(running: Backend) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get("/openapi.json").json()
    return found


def example(page: dict[str, Any], place: Place) -> dict[str, Any]:
    """A body that fits the action, as its description says."""
    body = page["paths"][place.path]["post"].get("requestBody")
    found: dict[str, Any] = body["content"]["application/json"]["example"] if body else {}
    return found


def test_no_page_of_another_site_may_ask_for_an_action(running: Backend, fake: LabelStudio) -> None:
    run = finished(running.client, running.client.post("/runs", json={"project": 1}).json()["run"]["id"])
    before = (fake.pushed(), list(fake.patches), len(fake.connections), running.client.get("/audit").json())
    found = places(running.app, "POST", VALUES | {"run_id": run["id"]})
    assert len(found) >= 10
    page = page_of(running)
    for place in found:
        for headers in FOREIGN:
            sent = running.client.post(place.address, json=example(page, place), headers=headers)
            form = running.client.post(place.address, data={"project": "1"}, headers=headers)
            assert (sent.status_code, form.status_code) == (403, 403), (place.address, headers)
    assert (fake.pushed(), fake.patches, len(fake.connections), running.client.get("/audit").json()) == before
    assert finished(running.client, run["id"]) == run


def test_every_action_asks_for_the_password_and_takes_it(tmp_path: Path, fake: LabelStudio) -> None:
    login = {"basic_auth_user": LOGIN[0], "basic_auth_pass": LOGIN[1]}
    with connected(tmp_path / "data", fake, **login) as running:
        base = str(running.client.base_url)
        with httpx.Client(base_url=base, timeout=40, trust_env=False, auth=LOGIN) as known:
            page = known.get("/openapi.json").json()
            run = known.post("/runs", json={"project": 1}).json()["run"]["id"]
            for place in places(running.app, "POST", VALUES | {"run_id": run}):
                body = example(page, place)
                without = running.client.post(place.address, json=body)
                wrong = running.client.post(place.address, json=body, auth=(LOGIN[0], "wrong"))
                assert (without.status_code, wrong.status_code) == (401, 401), place.path
                # our own page sends its origin along with the password
                with_it = known.post(place.address, json=body, headers={"Origin": base.rstrip("/")})
                assert with_it.status_code < 300 or with_it.status_code == 409, (place.path, with_it.text)
            for place in places(running.app, "GET", VALUES | {"run_id": run}):
                if place.path not in ("/", "/health"):  # by a setting
                    assert running.client.get(place.address).status_code == 401, place.path


class Forms(HTMLParser):
    """The forms of a page that act: where they lead, and the names of their fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, set[str]]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._open = given.get("method") == "post"
            if self._open:
                self.found.append((given.get("action") or "", set()))
        elif self._open and tag in ("input", "select", "textarea", "button") and given.get("name"):
            self.found[-1][1].add(given["name"] or "")


def test_each_action_is_on_the_openapi_page(tmp_path: Path, running: Backend) -> None:
    page = page_of(running)
    missing = [place.path for place in actions(tmp_path / "other") if "post" not in page["paths"].get(place.path, {})]
    assert missing == []
    shown = running.client.get("/docs").text
    for path in ("/runs", "/runs/{run_id}/undo", "/projects/{project}/connect", "/projects/{project}/try"):
        assert f"POST {path}" in shown


def test_each_form_of_each_page_has_a_twin_as_json(running: Backend, fake: LabelStudio) -> None:
    client, page = running.client, page_of(running)
    ended = finished(client, client.post("/runs", json={"project": 1}).json()["run"]["id"])["id"]
    running.strategy.gate.clear()
    begun = client.post("/runs", json={"project": 1, "prompt": "newt"}).json()["run"]["id"]
    addresses = [
        place.address.replace("RUN", run)
        for run in (ended, begun)
        for place in places(running.app, "GET", VALUES | {"run_id": "RUN"})
    ]
    leads: dict[str, set[str]] = {}
    for address in [*addresses, "/projects/1?prompt=newt&smart=true", "/runs?new=1&project=1"]:
        answer = client.get(address, headers=PAGE)
        if answer.headers["content-type"].startswith("text/html"):
            for action, names in Forms(answer.text).found:
                leads.setdefault(urlsplit(urljoin(str(answer.url), action)).path, set()).update(names)
    running.strategy.gate.set()
    ways = {"runs", "undo", "cancel", "retry", "connect", "try", "verify"}
    assert ways <= {path.rpartition("/")[2] for path in leads}
    for path, names in leads.items():
        (operation,) = (
            found["post"] for known, found in page["paths"].items() if "post" in found and _fits(known, path)
        )
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        assert {_OTHER_NAMES.get(name, name) for name in names} <= set(body.get("properties", {})), path


def test_each_page_of_a_run_leads_to_its_project(running: Backend) -> None:
    client = running.client
    run = finished(client, client.post("/runs", json={"project": 1}).json()["run"]["id"])["id"]
    lost = []
    for place in places(running.app, "GET", VALUES | {"run_id": run}):
        answer = client.get(place.address, headers=PAGE)
        if place.path.startswith("/runs") and answer.headers["content-type"].startswith("text/html"):
            links = {
                urlsplit(urljoin(str(answer.url), found)).path for found in re.findall(r'href="([^"]+)"', answer.text)
            }
            lost += [] if "/projects/1" in links else [place.path]
    assert lost == []


def _fits(known: str, path: str) -> bool:
    pattern = re.sub(r"\\{(\w+)\\}", "([^/]+)", re.escape(known))
    match = re.fullmatch(pattern, path)
    return match is not None and not ("{action}" in known and match.groups()[-1] not in ("cancel", "resume", "retry"))


def test_a_json_action_is_answered_with_json(running: Backend) -> None:
    run = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
    until(lambda: running.client.get(f"/runs/{run}").json()["state"] == "finished", "the run is finished")
    page = page_of(running)
    for place in places(running.app, "POST", VALUES | {"run_id": run}):
        answer = running.client.post(place.address, json=example(page, place))
        assert answer.headers["content-type"] == "application/json", place.path
        assert isinstance(answer.json(), dict), place.path
