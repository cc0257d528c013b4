"""A person's way through pages, counted: every click and every field typed into, seconds and a picture of each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page

_WHOLE = "() => [...document.images].every((image) => image.complete)"
_COLUMNS = ("step", "clicks", "fields and keys", "seconds", "what")


@dataclass(slots=True)
class Step:
    """One step of a walk.

    Attributes:
        name: in words.
        clicks: presses of the mouse's button; a drag is one.
        typed: fields typed into, and single keys.
        seconds: from its beginning until its picture was taken, waiting for the machine included.
        what: everything that was clicked and typed, in order.
    """

    name: str
    clicks: int = 0
    typed: int = 0
    seconds: float = 0.0
    what: list[str] = field(default_factory=list)


class Walk:
    """Acts on a page as a person does, one step at a time, and leaves pictures and a table in a folder.

    Args:
        page: a browser's.
        folder: emptied of an older walk's files.
        title: of the table.
    """

    def __init__(self, page: Page, folder: Path, title: str) -> None:
        self.page = page
        self.folder = folder
        self.title = title
        self.steps: list[Step] = []
        folder.mkdir(parents=True, exist_ok=True)
        for old in [*folder.glob("*.png"), *folder.glob("*.md")]:
            old.unlink()

    @property
    def clicks(self) -> int:
        """Of all steps."""
        return sum(step.clicks for step in self.steps)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """What happens inside belongs to one step; ends with a picture of the page, and the table is written anew."""
        self.steps.append(Step(name))
        started = time.monotonic()
        try:
            yield self.steps[-1]
            self.page.wait_for_function(_WHOLE)
        finally:  # what went wrong is seen on the picture
            self._photograph(name)
        self.steps[-1].seconds = time.monotonic() - started
        (self.folder / "walk.md").write_text(self.table(), encoding="utf-8")

    def picture(self, name: str) -> Path:
        """A picture of the page, once all of its own are there."""
        self.page.wait_for_function(_WHOLE)
        return self._photograph(name)

    def _photograph(self, name: str) -> Path:
        number = 1 + len(list(self.folder.glob("*.png")))
        path = self.folder / f"{number:02}-{'-'.join(name.lower().split())}.png"
        self.page.screenshot(path=path)
        return path

    def click(self, target: Locator, what: str) -> None:
        target.click()
        self._clicked(f"click {what}")

    def drag(self, start: tuple[float, float], end: tuple[float, float], what: str) -> None:
        """Press at a point of the page, move, let go."""
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=6)
        self.page.mouse.up()
        self._clicked(f"drag {what}")

    def point(self, place: tuple[float, float], what: str) -> None:
        """Click on a point of the page."""
        self.page.mouse.click(*place)
        self._clicked(f"click {what}")

    def type(self, target: Locator, text: str, what: str, *, click: bool = True) -> None:
        """Fill a field; ``click`` is False where it has the focus already, or a tabulator leads there."""
        if click:
            self.click(target, what)
        target.fill(text)
        self._typed(f"type {what}")

    def note_click(self, what: str) -> None:
        """A click outside the page, as of the browser's own buttons."""
        self._clicked(what)

    def key(self, name: str) -> None:
        self.page.keyboard.press(name)
        self._typed(f"key {name}")

    def choose(self, target: Locator, value: str, what: str) -> None:
        """An entry of a list: one click opens it, one chooses."""
        target.select_option(value)
        self._clicked(f"open {what}")
        self._clicked(f"choose {value}")

    def table(self) -> str:
        """All steps as Markdown, with a sum."""
        lines = [f"# {self.title}", "", f"| {' | '.join(_COLUMNS)} |", f"| {' | '.join('---' for _ in _COLUMNS)} |"]
        for step in self.steps:
            cells = (step.name, str(step.clicks), str(step.typed), f"{step.seconds:.1f}", ", ".join(step.what))
            lines.append(f"| {' | '.join(cells)} |")
        seconds = sum(step.seconds for step in self.steps)
        typed = sum(step.typed for step in self.steps)
        lines.append(f"| all | {self.clicks} | {typed} | {seconds:.1f} ({seconds / 60:.1f} min) | |")
        return "\n".join(lines) + "\n"

    def _clicked(self, what: str) -> None:
        self.steps[-1].clicks += 1
        self.steps[-1].what.append(what)

    def _typed(self, what: str) -> None:
        self.steps[-1].typed += 1
        self.steps[-1].what.append(what)
