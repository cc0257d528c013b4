"""A page of something that goes on renews itself in place: nothing that is typed is lost, and it can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import open_page
from tests.integration.runs.test_web import connected, tasks
from tests.support.harness import Backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

pytestmark = pytest.mark.e2e


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setattr("ml_backend.api.run_pages.REFRESH_SECONDS", 0.1)
    with (
        label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(5))) as fake,
        connected(tmp_path / "data", fake) as made,
    ):
        made.strategy.gate.clear()
        yield made


def in_browser(running: Backend, look: Callable[[Page, str], None]) -> None:
    base = str(running.client.base_url)

    def go() -> None:
        with open_page(base) as page:
            look(page, base)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(go).result()


def test_a_run_that_goes_on_is_shown_in_place_and_can_be_held(running: Backend) -> None:
    run = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]

    def look(page: Page, base: str) -> None:
        renewals: list[str] = []
        page.on("request", lambda request: renewals.append(request.url) if request.resource_type == "fetch" else None)
        page.goto(f"{base}/runs/{run}")
        page.evaluate("window.same = true")
        page.get_by_role("button", name="Cancel").focus()
        while len(renewals) < 3:
            page.wait_for_timeout(50)
        assert page.evaluate("document.activeElement.textContent") == "Cancel"  # the focus is where it was
        assert page.evaluate("window.same") is True  # and the page the same one
        page.get_by_role("button", name="Stop renewing this page").click()
        page.wait_for_timeout(300)  # one that was under way may end
        held = len(renewals)
        running.strategy.gate.set()
        page.wait_for_timeout(500)
        assert len(renewals) == held
        expect(page.get_by_role("heading", level=1)).to_contain_text("active")
        page.get_by_role("button", name="Renew this page again").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("finished")
        expect(page.locator("#renewal")).to_have_count(0)

    in_browser(running, look)


def test_what_is_typed_meanwhile_stays(running: Backend) -> None:
    running.client.post("/runs", json={"project": 1})

    def look(page: Page, base: str) -> None:
        page.goto(f"{base}/runs")
        page.locator("summary").click()
        project = page.get_by_label("Project")
        project.select_option("1")
        page.get_by_role("button", name="Stop renewing").focus()  # the field is not in use, but holds something
        running.strategy.gate.set()
        page.wait_for_timeout(1000)
        assert project.input_value() == "1"
        project.select_option("")
        page.get_by_role("heading", level=1).click()  # out of the field; from now on the page may load itself anew
        expect(page.locator("tbody .badge")).to_have_text("finished")

    in_browser(running, look)
