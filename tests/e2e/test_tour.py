"""The six pictures of the tour in ``docs/annotators.md``, taken of the real Label Studio in the order of the tour.

``make tour`` takes them anew into ``docs/images``; the test itself leaves them in ``artifacts/tour``.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page

from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e.conftest import ARTIFACTS, ROOT, World
from tests.e2e.pictures import deepest
from tests.e2e.test_annotation import annotate
from tests.e2e.test_smart_tools import POINT, scene, sit_down

PICTURES = ("by-doubt", "pre-filled", "reshaped", "wrong", "clicked", "typed")
"""Their names, in the order of the tour: ``tour-by-doubt.webp`` and so on."""

GUIDE = ROOT / "docs" / "annotators.md"
MOST_BYTES = 60_000
WIDTH = 960
TASK = "camouflaged animal"
DOUBTFUL, WITH_A_BELL = "camouflaged-animal-06.png", "camouflaged-animal-02.png"
CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="mask" toName="image"><Label value="Animal" background="#ff00ff"/></PolygonLabels>
</View>
"""
_ALL_THERE = "() => [...document.images].every((image) => image.complete)"


@dataclass
class Camera:
    """Photographs parts of a page for the guide."""

    page: Page
    folder: Path

    def take(self, name: str, left: float, top: float, bottom: float | None = None, right: float | None = None) -> None:
        """The page from a corner on, as WebP of at most `MOST_BYTES`."""
        assert self.page.viewport_size is not None
        self.page.mouse.move(2, 2)
        self.page.wait_for_function(_ALL_THERE)
        self.page.wait_for_timeout(600)  # tooltips fade
        width = (right or self.page.viewport_size["width"]) - left
        height = (bottom or self.page.viewport_size["height"]) - top
        shot = self.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
        image = Image.open(io.BytesIO(shot)).convert("RGB")
        image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        for quality in range(90, 20, -5):
            out = io.BytesIO()
            image.save(out, "WEBP", quality=quality, method=6)
            if out.tell() <= MOST_BYTES:
                break
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"tour-{name}.webp").write_bytes(out.getvalue())

    def editor(self, name: str) -> None:
        """The editor beside the list of tasks: from the tabs of annotations to the buttons at the bottom."""
        box = self.page.locator("img[alt=image]").bounding_box()
        assert box is not None
        self.take(name, box["x"] - 16, 48)


def opened(row: Locator) -> None:
    """Open a task from the Data Manager, and wait until its regions can be edited."""
    row.click()
    page = row.page
    page.wait_for_function("() => [...document.querySelectorAll('img[alt=image]')].some(i => i.naturalWidth > 0)")
    page.get_by_label("Submit current annotation").wait_for()
    page.locator(".lsf-outliner-item").first.wait_for()


def at(page: Page, place: tuple[float, float]) -> tuple[float, float]:
    """A place of the picture, as fractions of its width and height, on the page."""
    box = page.locator("img[alt=image]").bounding_box()
    assert box is not None
    return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]


def proposed(world: World, camera: Camera) -> None:
    """The view by doubt, a task that opens filled in, a mask that is corrected, a region that is wrong."""
    page, samples = camera.page, [one for one in load_samples(samples_folder()) if one.task == TASK][-7:]
    project = world.client.create_project("Animals", CONFIG)
    tasks = world.client.upload(project, [one.image for one in samples])
    world.client.connect(project, world.backend, extra_params=TASK)
    predictions = annotate(world, project, set(tasks.values()))
    version = predictions[tasks[DOUBTFUL]][0]["model_version"]
    view = world.client.show_by_doubt(project, version)
    ordered = sorted(tasks.values(), key=lambda task: predictions[task][0]["score"])

    page.goto(f"{world.server.url}/projects/{project}/data?tab={view}")
    rows = page.get_by_test_id("table-row")
    rows.nth(len(samples) - 1).wait_for()
    last = rows.nth(len(samples) - 1).bounding_box()
    assert last is not None
    camera.take("by-doubt", 0, 48, last["y"] + last["height"] + 8, 760)

    opened(rows.nth(ordered.index(tasks[DOUBTFUL])))
    camera.editor("pre-filled")
    (prediction,) = predictions[tasks[DOUBTFUL]]
    masks = [decode_region(region) for region in prediction["result"]]
    largest = max(range(len(masks)), key=lambda i: int(masks[i].sum()))
    others = [mask for i, mask in enumerate(masks) if i != largest]
    page.mouse.click(*at(page, deepest(masks[largest], others)))
    page.get_by_text("View region details").wait_for(state="detached")
    x, y = max(prediction["result"][largest]["value"]["points"], key=lambda point: point[1])
    page.mouse.move(*at(page, (x / 100, y / 100)))
    page.mouse.down()
    page.mouse.move(*at(page, (x / 100, y / 100 + 0.1)), steps=6)
    page.mouse.up()
    camera.editor("reshaped")

    page.goto(f"{world.server.url}/projects/{project}/data?tab={view}")
    rows.nth(len(samples) - 1).wait_for()
    opened(rows.nth(ordered.index(tasks[WITH_A_BELL])))
    (prediction,) = predictions[tasks[WITH_A_BELL]]
    truth = np.asarray(Image.open(scene(WITH_A_BELL).mask).convert("L")) > 127
    masks = [decode_region(region) for region in prediction["result"]]
    wrong = min(range(len(masks)), key=lambda i: float((masks[i] & truth).sum() / masks[i].sum()))
    assert not (masks[wrong] & truth).any(), "the guide shows a region that is wrong"
    listed = page.locator(".lsf-outliner-item")
    before = listed.count()
    page.mouse.click(*at(page, deepest(masks[wrong], [mask for i, mask in enumerate(masks) if i != wrong])))
    page.get_by_text("View region details").wait_for(state="detached")
    camera.editor("wrong")
    page.keyboard.press("Backspace")
    page.wait_for_function("(n) => document.querySelectorAll('.lsf-outliner-item').length < n", arg=before)


def drawn(world: World, camera: Camera) -> None:
    """A click and an Alt+click, and a typed prompt."""
    sample = scene(WITH_A_BELL)
    desk = sit_down(world, camera.page, "PolygonLabels", sample, sample.image)
    desk.annotator.take("key-point-tool")
    desk.annotator.point(POINT, desk.middle())
    desk.annotator.point(POINT, (0.35, 0.3), beside=True)
    camera.editor("clicked")
    sample = scene("polyp-02.png")
    desk = sit_down(world, camera.page, "PolygonLabels", sample, sample.image)
    desk.annotator.type_prompt("polyp")
    camera.editor("typed")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_pictures_of_the_tour(world: World, page: Page) -> None:
    folder = ROOT / os.environ["INT_TOUR"] if os.environ.get("INT_TOUR") else ARTIFACTS / "tour"
    camera = Camera(page, folder)
    for old in folder.glob("tour-*.webp"):
        old.unlink()
    proposed(world, camera)
    drawn(world, camera)
    made = {path.name: path for path in folder.glob("tour-*.webp")}
    assert made.keys() == {f"tour-{name}.webp" for name in PICTURES}
    assert {name: path.stat().st_size for name, path in made.items() if path.stat().st_size > MOST_BYTES} == {}


def test_the_guide_shows_the_pictures_of_the_tour_in_its_order() -> None:
    shown = re.findall(r"!\[[^]]+\]\(images/(tour-[^)]*)\)", GUIDE.read_text(encoding="utf-8"))
    assert shown == [f"tour-{name}.webp" for name in PICTURES]
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").glob("tour-*")}
    assert sizes.keys() == set(shown)
    assert max(sizes.values()) <= MOST_BYTES
