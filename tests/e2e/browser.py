"""Drive Label Studio's own page in headless Chromium and read what it draws."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Route, sync_playwright

from tests.support.waiting import required

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_WAIT_MS = 120_000
_DIFFERENCE = 8  # of 255 in any channel: less is the noise of drawing the page twice


def _chromium() -> str:
    """The browser's program: ``CHROMIUM`` or the first of the usual names."""
    names = (os.environ.get("CHROMIUM", ""), *_NAMES)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return required(found, "no Chromium found: install Debian's chromium or set CHROMIUM=/path/to/it")


@contextmanager
def open_page(*servers: str) -> Iterator[Page]:
    """A page that reaches these servers only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=list(_FLAGS))
        context = browser.new_context(viewport={"width": 1500, "height": 950})
        context.set_default_timeout(_WAIT_MS)
        allowed = (*servers, "data:", "blob:")
        context.route(
            "**/*", lambda route: route.continue_() if route.request.url.startswith(allowed) else route.abort()
        )
        try:
            yield context.new_page()
        finally:
            browser.close()


def _starts(route: Route, allowed: tuple[str, ...]) -> bool:
    return route.request.url.startswith(allowed)


def log_in(page: Page, server: str, email: str, password: str) -> None:
    page.goto(f"{server}/user/login/")
    page.fill("input[name=email]", email)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url)


@dataclass(frozen=True)
class Drawn:
    """What the page shows: the whole page, the picture with and without its regions, and where they differ."""

    page: NDArray[np.uint8]
    with_regions: NDArray[np.uint8]
    without_regions: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels of the picture, as shown, that the regions change; outlines filled."""
        difference = np.abs(self.with_regions.astype(np.int16) - self.without_regions.astype(np.int16)).max(axis=2)
        changed = (difference > _DIFFERENCE).astype(np.uint8)
        contours, _ = cv2.findContours(changed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(changed), contours, -1, 1, thickness=cv2.FILLED)
        return filled.astype(np.bool_)

    def iou(self, mask: NDArray[np.bool_]) -> float:
        """Overlap of the drawn pixels with a mask of the upright image, shown as the page shows the image.

        The image fills the drawing layer's height or width and starts at its upper left corner.
        """
        drawn = self.mask
        scale = min(drawn.shape[0] / mask.shape[0], drawn.shape[1] / mask.shape[1])
        height, width = (round(side * scale) for side in mask.shape)
        shown = np.zeros_like(drawn)
        fitted = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        shown[:height, :width] = fitted.astype(np.bool_)
        return float((shown & drawn).sum() / max(1, (shown | drawn).sum()))


def look_at_task(page: Page, server: str, project: int, row: int, screenshot: Path) -> Drawn:
    """Open the task of a Data Manager row (from 0) as an annotator would, and photograph it with and without regions.

    Label Studio's deep link to a task is not used: on the first visit of a project its answer may be overtaken by that
    of the task list, and the page then shows no prediction.
    """
    page.goto(f"{server}/projects/{project}/data")
    page.get_by_test_id("table-row").nth(row).click()
    page.locator("button[aria-label='Hide all regions']:enabled").wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('img[alt=image]')].some(i => i.naturalWidth > 0)")
    shown = _settled(page)
    screenshot.parent.mkdir(parents=True, exist_ok=True)
    whole = page.screenshot(path=screenshot)
    page.get_by_label("Hide all regions").click()
    page.get_by_label("Show all regions").wait_for()
    return Drawn(page=_pixels(whole), with_regions=shown, without_regions=_settled(page))


def _settled(page: Page) -> NDArray[np.uint8]:
    """The picture's pixels once two photographs half a second apart agree."""
    last: NDArray[np.uint8] | None = None
    for _ in range(60):
        now = _pixels(page.screenshot(clip=_picture_place(page)))
        if last is not None and now.shape == last.shape and np.array_equal(now, last):
            return now
        last = now
        page.wait_for_timeout(500)
    raise AssertionError("the page did not come to rest within 30 s")


def _picture_place(page: Page) -> Any:
    """Where the picture lies on the page: the drawing layers start where it starts, and are at least as large.

    A bitmask region brings a canvas of its own, which is not shown: the stage that holds the layers is asked.
    """
    place = page.locator(".konvajs-content").last.bounding_box()
    assert place is not None
    return place


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
