"""The page of what a project learned, in a browser: verdicts are read, a version is rolled back and let serve again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import expect

from ml_backend.learning.versions import Versions
from tests.e2e.browser import open_page
from tests.e2e.conftest import ARTIFACTS
from tests.integration.ml_backend.test_learning_page import PROJECT, fake, running, two_versions, versions
from tests.support.harness import Backend

pytestmark = pytest.mark.e2e

__all__ = ["fake", "running", "versions"]  # fixtures


def walk(address: str) -> Iterator[str]:
    """What a person does, and what the page says after each step."""
    with open_page(address) as page:
        page.goto(f"{address}/projects/{PROJECT}/learning")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text("v1 serves")
        expect(page.get_by_text("Refused: the label 'Animal' loses 0.100")).to_be_visible()
        picture = page.locator(".sheet img").first
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("async (it) => { await it.decode(); return it.naturalWidth }") > 64
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=ARTIFACTS / "learning.png", full_page=True)
        yield page.get_by_role("region", name="Versions").inner_text()
        page.get_by_role("button", name="Roll back").click()
        expect(heading).to_contain_text("base serves")
        yield heading.inner_text()
        page.get_by_role("button", name="Let v1 serve").click()
        expect(heading).to_contain_text("v1 serves")
        expect(page.get_by_text("rolled back to base")).to_be_visible()
        page.get_by_role("button", name="Let v2 serve although").click()  # the box beside it was not ticked
        expect(heading).to_contain_text("v1 serves")
        page.get_by_role("checkbox", name="although the gate refused it").check()
        page.get_by_role("button", name="Let v2 serve although").click()
        expect(heading).to_contain_text("v2 serves")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 320, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        page.screenshot(path=ARTIFACTS / "learning-phone.png", full_page=True)
        yield heading.inner_text()


def test_what_was_learned_is_read_rolled_back_and_let_serve_again(
    running: Backend, versions: Versions, tmp_path: Path
) -> None:
    two_versions(running, versions)
    address = str(running.client.base_url).rstrip("/")
    with ThreadPoolExecutor(1) as pool:  # another session-wide page may hold this thread's event loop
        table, _, _ = pool.submit(lambda: list(walk(address))).result()
    assert "at least +0.120" in table
    assert versions.serving(PROJECT).name == "v2"
    assert [entry.how for entry in versions.history(PROJECT)] == ["promote", "promote", "rollback", "gate"]
