"""An annotator works with smart tools on Label Studio's own page; what is saved in the end lies on the object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from ml_backend.demo.samples import Sample, load_samples, samples_folder
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e import pictures
from tests.e2e.annotator import Annotator, Place
from tests.e2e.conftest import ARTIFACTS, World

pytestmark = pytest.mark.e2e

CONFIG = """
<View>
  <View style="display: flex; gap: 12px; align-items: center">
    <{kind} name="mask" toName="image"><Label value="Thing" model_prompt="camouflaged animal"/></{kind}>
    <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true"><Label value="Thing"/></KeyPointLabels>
    <RectangleLabels name="box" toName="image" smart="true" smartOnly="true"><Label value="Thing"/></RectangleLabels>
  </View>
  <TextArea name="prompt" toName="image" placeholder="What to look for, then Enter"/>
  <Image name="image" value="$image"/>
</View>
"""
POINT, BOX = 1, 2  # numbers of the labels on the page


@dataclass(frozen=True)
class Desk:
    """An annotator before a task of one picture, whose object is known."""

    world: World
    annotator: Annotator
    task: int
    truth: NDArray[np.bool_]

    def submitted(self) -> NDArray[np.bool_]:
        """Accept, submit, and read back the mask that Label Studio then holds."""
        self.annotator.accept()
        self.annotator.submit()
        (annotation,) = self.world.client.json("GET", f"/api/tasks/{self.task}/annotations/")
        assert {item["from_name"] for item in annotation["result"]} <= {"mask", "prompt"}, (
            "no point or box is left over"
        )
        return union(annotation["result"], self.truth.shape)

    def middle(self) -> Place:
        """The object's pixel nearest to its centre of mass."""
        rows, columns = np.nonzero(self.truth)
        at = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
        height, width = self.truth.shape
        return (columns[at] + 0.5) / width, (rows[at] + 0.5) / height

    def corners(self) -> tuple[Place, Place]:
        rows, columns = np.flatnonzero(self.truth.any(axis=1)), np.flatnonzero(self.truth.any(axis=0))
        height, width = self.truth.shape
        return (columns[0] / width, rows[0] / height), ((columns[-1] + 1) / width, (rows[-1] + 1) / height)


def union(items: list[dict[str, Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=np.bool_)
    for item in items:
        if item["from_name"] == "mask":
            mask |= decode_region(item)
    return mask


def iou(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return float((left & right).sum() / max(1, (left | right).sum()))


def scene(name: str) -> Sample:
    return next(sample for sample in load_samples(samples_folder()) if sample.image.name == name)


def sit_down(world: World, page: Page, kind: str, sample: Sample, file: Path) -> Desk:
    """A project of one picture; no prediction is asked for when the task is opened."""
    project = world.client.create_project(f"e2e smart tools {kind}", CONFIG.format(kind=kind))
    (task,) = world.client.upload(project, [file]).values()
    row = world.client.connect(project, world.backend)
    assert row["state"] == "CO", row
    world.client.json("PATCH", f"/api/projects/{project}", body={"show_collab_predictions": False})
    truth = np.asarray(Image.open(sample.mask).convert("L")) > 127
    page.set_default_timeout(30_000)
    return Desk(world, Annotator.open(page, world.server.url, project), task, truth)


def test_a_click_and_an_alt_click_make_the_region_that_is_submitted(world: World, page: Page) -> None:
    sample = scene("camouflaged-animal-02.png")
    desk = sit_down(world, page, "PolygonLabels", sample, sample.image)
    desk.annotator.take("key-point-tool")
    first = desk.annotator.point(POINT, desk.middle())
    assert [prompt["is_positive"] for prompt in first.prompts] == [True]
    assert iou(union(first.data["result"], desk.truth.shape), desk.truth) > 0.5
    second = desk.annotator.point(POINT, (0.35, 0.3), beside=True)
    assert [prompt.get("is_positive") for prompt in second.prompts] == [True, False]
    desk.annotator.photograph(ARTIFACTS / "smart-click.png")
    assert iou(desk.submitted(), desk.truth) > 0.5


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels"])
def test_a_box_on_a_phone_photo_makes_the_mask_that_is_submitted(
    world: World, page: Page, tmp_path: Path, kind: str
) -> None:
    sample = scene("camouflaged-animal-07.png")
    photo = pictures.phone_photo(np.asarray(Image.open(sample.image).convert("RGB")), tmp_path / "phone.jpg")
    desk = sit_down(world, page, kind, sample, photo)
    desk.annotator.take("rectangle-tool")
    asked = desk.annotator.box(BOX, *desk.corners())
    assert iou(union(asked.data["result"], desk.truth.shape), desk.truth) > 0.5
    desk.annotator.photograph(ARTIFACTS / f"smart-box-{kind.lower()}.png")
    assert iou(desk.submitted(), desk.truth) > 0.5


def test_a_typed_prompt_goes_before_the_projects(world: World, page: Page) -> None:
    sample = scene("polyp-02.png")
    desk = sit_down(world, page, "PolygonLabels", sample, sample.image)
    asked = desk.annotator.type_prompt("polyp")
    assert all(item["meta"]["text"][0].startswith("polyp: ") for item in asked.data["result"])
    assert iou(union(asked.data["result"], desk.truth.shape), desk.truth) > 0.5
    desk.annotator.photograph(ARTIFACTS / "typed-prompt.png")
    assert iou(desk.submitted(), desk.truth) > 0.5
