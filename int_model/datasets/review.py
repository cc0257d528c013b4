"""A contact sheet for people: small pictures with their masks, most doubtful first, in pages that load fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from int_model.core.types import Instance
from int_model.datasets.contents import Contents, Item
from int_model.html.environment import render
from int_model.html.text import counted
from int_model.io.drawing import encode, overlay, shrink, shrink_mask
from int_model.io.errors import ImageError
from int_model.io.images import read_image

PAGE = 120
THUMB = 320
SECTIONS = {"found": "With objects, most doubtful first", "nothing": "Nothing found", "failed": "Failed"}
_BINS = 20
_SHOWN_OBJECTS = 6
_FOLDERS = 500


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the sheet; paths are relative to ``review/``; ``found`` holds label, scores and mined names."""

    title: str
    split: str
    thumb: str
    original: str
    score: float
    found: tuple[tuple[str, str, str], ...]
    abstentions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a section: its file, and what is on it."""

    file: str
    section: str
    number: int
    of: int
    shown: Sequence[Any]
    span: str


class ReviewWriter:
    """Writes ``review/index.html``, its pages and ``review/thumbs``, below a folder.

    The index tells how scores are spread and leads to three sections: images with objects, lowest score first; images
    in which nothing was found; images that failed. Ticked images can be saved as a list that ``--exclude`` takes.

    Args:
        folder: the data set's.
        contents: what is in it.
        title: heading of the pages.
        facts: (label, value) pairs for the index.
        identity: tells this data set from others, so that ticks of one do not show in another.
        images: the folder of the data set's images relative to ``review/``, or None if the originals are shown.
        page: most images on a page.
    """

    def __init__(
        self,
        folder: Path,
        contents: Contents,
        title: str,
        facts: Sequence[tuple[str, str]],
        *,
        identity: str,
        images: str | None = "../images",
        page: int = PAGE,
    ) -> None:
        self._folder = folder / "review"
        self._contents, self._title, self._facts = contents, title, tuple(facts)
        self._identity, self._images, self._page = identity, images, page
        self._found: list[Shown] = []
        self._nothing: list[Shown] = []
        self._count = 0
        (self._folder / "thumbs").mkdir(parents=True, exist_ok=True)

    def add(self, item: Item) -> None:
        """Draw one image's small picture."""
        entry = item.entry
        place = f"thumbs/{self._count // _FOLDERS:04d}/{entry.name}.jpg"
        self._count += 1
        drawn = self._draw(item, self._folder / place)
        original = (
            entry.path.as_uri() if self._images is None else _url(f"{self._images}/{entry.split}/{entry.file_name}")
        )
        shown = Shown(
            title=entry.relative,
            split=entry.split,
            thumb=_url(place) if drawn else "",
            original=original,
            score=item.doubt,
            found=self._told(item),
            abstentions=tuple((told.label, told.reason) for told in item.abstentions),
        )
        (self._found if item.objects else self._nothing).append(shown)

    def close(self) -> None:
        """Write the pages."""
        self._found.sort(key=lambda shown: (shown.score, shown.title))
        sections: dict[str, Sequence[Any]] = {
            "found": self._found,
            "nothing": self._nothing,
            "failed": self._contents.failures,
        }
        pages = {name: self._pages(name, shown) for name, shown in sections.items()}
        bars = _histogram([shown.score for shown in self._found], pages["found"], self._page)
        self._write("index.html", "review_index.html.j2", pages, "", facts=self._facts, bars=bars)
        for name, listed in pages.items():
            for page in listed:
                self._write(page.file, "review_page.html.j2", pages, name, page=page)

    def _write(self, file: str, template: str, pages: Mapping[str, Sequence[Page]], here: str, **values: Any) -> None:
        counts = {name: sum(len(page.shown) for page in listed) for name, listed in pages.items()}
        tabs: list[tuple[str, str, bool, int | None]] = [("Overview", "index.html", not here, None)]
        for name, listed in pages.items():
            tabs.append((SECTIONS[name], listed[0].file if listed else "", name == here, counts[name]))
        common = {"title": self._title, "identity": self._identity, "sections": SECTIONS}
        text = render("int_model.datasets", template, **common, pages=pages, counts=counts, tabs=tabs, **values)
        (self._folder / file).write_text(text, encoding="utf-8")

    def _pages(self, name: str, shown: Sequence[Any]) -> list[Page]:
        parts = [shown[start : start + self._page] for start in range(0, len(shown), self._page)]
        return [
            Page(f"{name}-{number:04d}.html", name, number, len(parts), part, _span(name, part))
            for number, part in enumerate(parts, 1)
        ]

    def _told(self, item: Item) -> tuple[tuple[str, str, str], ...]:
        """Per label what was found: the scores, and names where they say more than the label or its prompt."""
        told = []
        for plan in self._contents.labels:
            own = [found for found in item.objects if found.label == plan.label]
            scores = [f"{found.score:.2f}" for found in own[:_SHOWN_OBJECTS]]
            if len(own) > _SHOWN_OBJECTS:
                scores.append(f"and {len(own) - _SHOWN_OBJECTS} more")
            known = {"", plan.label.casefold(), plan.prompt.casefold()}
            names = dict.fromkeys(found.name for found in own if found.name.casefold() not in known)
            if own:
                told.append((plan.label, " ".join(scores), ", ".join(names)))
        return tuple(told)

    def _draw(self, item: Item, place: Path) -> bool:
        """Whether the picture could be drawn: the file may be gone by now."""
        try:
            image = read_image(item.entry.path)
        except ImageError:
            return False
        if image.shape[:2] != item.entry.size:
            return False
        # The sheet names the objects below the picture.
        shown = [Instance.of_mask(shrink_mask(item.mask(found), THUMB), "", found.score) for found in item.objects]
        place.parent.mkdir(parents=True, exist_ok=True)
        drawn = overlay(np.ascontiguousarray(shrink(image, THUMB)), shown)
        place.write_bytes(encode(drawn, "JPEG", quality=82, optimize=True))
        return True


def _span(name: str, part: Sequence[Any]) -> str:
    return f"{part[0].score:.2f} to {part[-1].score:.2f}" if name == "found" else ""


def _histogram(scores: Sequence[float], pages: Sequence[Page], per_page: int) -> list[Mapping[str, Any]]:
    """Bars of the lowest score per image; each leads to the page on which its first image is. ``scores`` are sorted."""
    counts, edges = np.histogram(np.asarray(scores), bins=_BINS, range=(0.0, 1.0))
    top = max(int(counts.max()), 1)
    bars: list[Mapping[str, Any]] = []
    before = 0
    for index, count in enumerate(counts.tolist()):
        file = pages[before // per_page].file if count else ""
        title = f"{counted(count, 'image')} with a lowest score of {edges[index]:.2f} to {edges[index + 1]:.2f}"
        bars.append({"count": count, "height": 100.0 * count / top, "title": title, "address": file})
        before += count
    return bars


def _url(path: str) -> str:
    return quote(path, errors="surrogateescape")
