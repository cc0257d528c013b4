"""axe-core on every page: those that files hold, and all that the backend serves, found by its own routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.axe import ALL, Violation, Way, version, violations
from tests.e2e.browser import open_page
from tests.e2e.test_page_accessibility import (
    contact_sheets,
    evaluations,
    learning_pages,
    reports,
    served_pages,
    trial_pages,
)
from tests.integration.runs.test_web import PAGE, connected, finished, tasks
from tests.support.harness import Backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.routes import places
from tests.support.waiting import until

pytestmark = pytest.mark.e2e


def look(within: str, addresses: Mapping[str, str], ways: Sequence[Way] = ALL) -> list[Violation]:
    def go() -> list[Violation]:
        with open_page(within) as page:
            return list(violations(page, addresses, ways))

    with ThreadPoolExecutor(1) as pool:  # another session-wide page may hold this thread's event loop
        return pool.submit(go).result()


@pytest.mark.slow
@pytest.mark.parametrize("make", [reports, evaluations, contact_sheets, served_pages, trial_pages, learning_pages])
def test_pages_break_no_rule(make: Callable[[Path], Iterator[Path]], tmp_path: Path) -> None:
    files = [path.resolve() for path in make(tmp_path)]
    assert look(tmp_path.resolve().as_uri(), {file.name: file.as_uri() for file in files}) == []


def served(running: Backend) -> dict[str, str]:
    """All pages of a backend with a run and a trial, by path: what answers a browser with HTML."""
    client = running.client
    run = finished(client, client.post("/runs", json={"project": 1}).json()["run"]["id"])["id"]
    assert client.post("/projects/1/try", json={"sides": [{}], "images": 2}).status_code == 202
    until(lambda: client.get("/projects/1/try").json()["state"] == "done", "the trial is done")
    assert client.post(f"/runs/{run}/verify").status_code == 200
    values = {"project": 1, "run_id": run, "task": 1}
    found = {place.path: place.address for place in places(running.app, "GET", values)}
    more = [f"/runs/{run}?order=doubt", f"/runs/{run}?state=failed", "/projects/1/try?new=1", "/projects/1?smart=true"]
    more += ["/runs?new=1", "/runs?new=1&project=1&limit=x", "/runs?project=1"]
    refused = ["/runs/none", "/projects/x", "/runs?project=x"]
    answers = {address: client.get(address, headers=PAGE) for address in (*found.values(), *more, *refused)}
    return {
        address: str(answer.url)
        for address, answer in answers.items()
        if answer.headers["content-type"].startswith("text/html")
    }


@pytest.mark.parametrize("ways", [[(320, "light")], pytest.param(ALL, marks=pytest.mark.slow)])
def test_all_that_is_served_breaks_no_rule(tmp_path: Path, ways: Sequence[Way]) -> None:
    with (
        label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(5))) as fake,
        connected(tmp_path / "data", fake) as running,
    ):
        addresses = served(running)
        known = {"/runs", "/projects", "/projects/1", "/projects/1/try", "/projects/1/learning", "/audit", "/docs"}
        assert known <= set(addresses)
        assert len(addresses) >= len(known) + 9  # of the run, and those that refuse
        assert look(str(running.client.base_url), addresses, ways) == []


def test_the_rules_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><html><title>x</title><main><h1>a</h1><p style='color:#999;background:#fff'>pale</p>"
        "<input><a href=x></a></main></html>"
    )
    found = look(tmp_path.as_uri(), {"bad": file.as_uri()})
    assert {"color-contrast", "label", "link-name", "html-has-lang"} <= {one.rule for one in found}
    assert {one.width for one in found} == {1280, 320}
    assert int(version().partition(".")[0]) >= 4
