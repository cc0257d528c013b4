"""What an annotator does on Label Studio's page with smart tools: switch on, point, type, accept, submit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Page

Tool = Literal["key-point-tool", "rectangle-tool"]
Place = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """One interactive request of the page, and what Label Studio answered."""

    prompts: list[dict[str, Any]]
    data: dict[str, Any]


@dataclass(frozen=True)
class Annotator:
    """An annotator before an opened task. Places are fractions of the picture's width and height."""

    page: Page

    @classmethod
    def open(cls, page: Page, server: str, project: int, row: int = 0) -> Annotator:
        """Open a task from the Data Manager, with Auto-Annotation on."""
        page.goto(f"{server}/projects/{project}/data")
        page.get_by_test_id("table-row").nth(row).click()
        page.wait_for_function("() => [...document.querySelectorAll('img[alt=image]')].some(i => i.naturalWidth > 0)")
        switch = page.get_by_test_id("bottombar-auto-annotation-toggle")
        switch.wait_for(state="attached")
        if not switch.is_checked():  # the page remembers it from the last task
            page.get_by_text("Auto-Annotation", exact=True).click()
        page.get_by_text("Auto-Accept Suggestions").wait_for()
        return cls(page)

    def take(self, tool: Tool) -> None:
        """Choose a smart tool: the wand opens the list of them."""
        self.page.locator(".lsf-toolbar__group > .lsf-tool_smart").click()
        self.page.locator(f".lsf-toolbar__smart button[aria-label={tool}]").click()

    def point(self, label: int, place: Place, *, beside: bool = False) -> Asked:
        """Click with the label of that number; ``beside``: with Alt, on what is not the object."""

        def click() -> None:
            if beside:
                self.page.keyboard.down("Alt")
            self.page.mouse.click(*self._at(place))
            if beside:
                self.page.keyboard.up("Alt")

        return self._asked_by(lambda: self._with_label(label, click))

    def box(self, label: int, first: Place, last: Place) -> Asked:
        """Draw a rectangle with the label of that number."""

        def drag() -> None:
            self.page.mouse.move(*self._at(first))
            self.page.mouse.down()
            self.page.mouse.move(*self._at(last), steps=8)
            self.page.mouse.up()

        return self._asked_by(lambda: self._with_label(label, drag))

    def type_prompt(self, text: str) -> Asked:
        """Type into the TextArea ``prompt`` and press Enter."""

        def enter() -> None:
            field = self.page.locator("[name=prompt]").first
            field.fill(text)
            field.press("Enter")

        return self._asked_by(enter)

    def photograph(self, path: Path) -> None:
        self.page.mouse.move(2, 2)
        self.page.wait_for_timeout(600)  # tooltips fade
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def accept(self) -> None:
        """The tick beside the suggestions."""
        button = self.page.get_by_test_id("bottombar-accept-suggestions-button")
        button.click()
        button.wait_for(state="detached")

    def submit(self) -> None:
        with self.page.expect_response(
            lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
        ) as saved:
            self.page.get_by_label("Submit current annotation").click()
        assert saved.value.status == 201, saved.value.text()

    def _with_label(self, number: int, act: Callable[[], None]) -> None:
        """Label Studio lets go of the label after each region."""
        chosen = self.page.locator(".lsf-label").nth(number)
        if "lsf-label_selected" not in (chosen.get_attribute("class") or ""):
            chosen.click()
        act()

    def _asked_by(self, act: Callable[[], None]) -> Asked:
        with self.page.expect_response("**/interactive-annotating*") as caught:
            act()
        sent = json.loads(caught.value.request.post_data or "{}")
        answer = caught.value.json()
        assert "errors" not in answer, answer
        self.page.get_by_test_id("bottombar-accept-suggestions-button").wait_for()
        return Asked(sent["context"]["result"], answer["data"])

    def _at(self, place: Place) -> Place:
        picture = self.page.locator("img[alt=image]").bounding_box()
        assert picture is not None
        return picture["x"] + picture["width"] * place[0], picture["y"] + picture["height"] * place[1]
