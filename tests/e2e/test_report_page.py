"""The report in a real browser: the keys work, nothing is loaded from elsewhere, masks are drawn where they belong."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage
from playwright.sync_api import Page

from int_model.report import ReportBuilder
from tests.e2e.browser import open_page
from tests.support.made_up import made_up

pytestmark = pytest.mark.e2e
ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
_OPEN = "[...document.querySelectorAll('details.image')].map((item) => item.open)"


@dataclass
class Seen:
    """What the page did, noted while it was used."""

    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    opened: dict[str, list[bool]] = field(default_factory=dict)
    drawn: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)


def use(file: Path) -> Seen:
    seen = Seen()
    with open_page(file.as_uri()) as page:
        page.on("console", lambda message: seen.messages.append(message.text))
        page.on("pageerror", lambda error: seen.messages.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url.partition(":")[0]))
        page.emulate_media(reduced_motion="reduce")
        page.goto(file.as_uri())
        seen.opened["start"] = page.evaluate(_OPEN)
        for name, keys in (("next", "jj"), ("all", "a"), ("none", "a")):
            for key in keys:
                page.keyboard.press(key)
            seen.opened[name] = page.evaluate(_OPEN)
        page.click("a[href='#image-4']")
        seen.opened["link"] = page.evaluate(_OPEN)
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / "report.png")
        seen.drawn = _difference(page)
    return seen


def _difference(page: Page) -> np.ndarray:
    """The pixels of image 4's result, as shown, that the key for masks changes."""
    result = page.locator("#image-4 figure.big svg")
    shots = []
    for _ in range(2):
        with PilImage.open(io.BytesIO(result.screenshot())) as picture:
            shots.append(np.asarray(picture.convert("RGB")).astype(int))
        page.keyboard.press("m")
    return np.abs(shots[0] - shots[1]).max(axis=2) > 8


def test_the_report_in_a_browser(tmp_path: Path) -> None:
    builder = ReportBuilder("camouflaged animal", [("Profile", "none")])
    for seed in range(4):
        image, segmentation = made_up(seed=seed)
        builder.add(f"{seed}.png", image, segmentation)
    file = tmp_path / "report.html"
    file.write_text(builder.render())
    with ThreadPoolExecutor(1) as pool:  # another session-wide page may hold this thread's event loop
        seen = pool.submit(use, file).result()

    assert seen.messages == []
    assert set(seen.requests) <= {"file", "data"}
    assert seen.requests.count("file") == 1
    assert seen.opened == {
        "start": [True, False, False, False],
        "next": [True, True, False, False],
        "all": [True] * 4,
        "none": [False] * 4,
        "link": [False, False, False, True],
    }
    assert seen.drawn is not None
    shown = cv2.morphologyEx(seen.drawn.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).astype(bool)
    size = (shown.shape[1], shown.shape[0])
    truth = cv2.resize(segmentation.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    assert (shown & truth).sum() / (shown | truth).sum() > 0.9, "boxes are thin lines, which opening removes"
