"""A project of good and bad files, annotated by the real backend through the real Label Studio, and looked at."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from ml_backend.demo.outcomes import outcome_of
from ml_backend.demo.samples import Sample, load_samples, samples_folder
from tests.e2e import pictures
from tests.e2e.browser import look_at_task
from tests.e2e.conftest import ARTIFACTS, World

pytestmark = pytest.mark.e2e

POLYGON_TASK, BRUSH_TASK = "polyp", "skin lesion"
GOOD = ("plain.png", "phone.jpg", "gray16.png", "cmyk.jpg", "palette.png")
BAD = ("truncated.png", "text.png")
TIMEOUT_SECONDS = 600
CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <{kind} name="mask" toName="image"><Label value="Thing" background="#ff00ff"/></{kind}>
</View>
"""


def annotate(world: World, project: int, wanted: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Ask for predictions as an annotator would, until the wanted tasks have them; the predictions of every task."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        world.client.retrieve_predictions(project)
        ids = [task["id"] for task in world.client.tasks(project)]
        found = {task: world.client.predictions(task) for task in ids}
        if all(found[task] for task in wanted):
            return found
        assert time.monotonic() < deadline, f"no predictions for {sorted(t for t in wanted if not found[t])}"
        time.sleep(2.0)


def sample_of(task: str) -> Sample:
    """The first bundled scene of the task that holds an object."""
    return next(sample for sample in load_samples(samples_folder()) if sample.task == task and not sample.empty)


def read_mask(sample: Sample) -> NDArray[np.bool_]:
    return np.asarray(Image.open(sample.mask).convert("L")) > 127


@dataclass(frozen=True)
class Annotated:
    project: int
    tasks: dict[str, int]
    predictions: dict[int, list[dict[str, Any]]]
    truth: NDArray[np.bool_]

    def of(self, name: str) -> list[dict[str, Any]]:
        return self.predictions[self.tasks[name]]


@pytest.fixture(scope="module")
def polygons(world: World, tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    """One scene as seven kinds of file and a single pixel, in one project with polygons."""
    folder = tmp_path_factory.mktemp("pictures")
    sample = sample_of(POLYGON_TASK)
    scene = np.asarray(Image.open(sample.image).convert("RGB"))
    plain = folder / "plain.png"
    Image.fromarray(scene).save(plain)
    files = [
        plain,
        pictures.truncated(plain, folder / "truncated.png"),
        pictures.phone_photo(scene, folder / "phone.jpg"),
        pictures.text_file(folder / "text.png"),
        pictures.gray_16_bit(scene, folder / "gray16.png"),
        pictures.cmyk_jpeg(scene, folder / "cmyk.jpg"),
        pictures.palette_png(scene, folder / "palette.png"),
        pictures.one_pixel(folder / "one.png"),
    ]
    project = world.client.create_project("e2e polygons", CONFIG.format(kind="PolygonLabels"))
    tasks = world.client.upload(project, files)
    row = world.client.connect(project, world.backend, extra_params=POLYGON_TASK)
    assert row["state"] == "CO", row
    predictions = annotate(world, project, {tasks[name] for name in GOOD})
    return Annotated(project=project, tasks=tasks, predictions=predictions, truth=read_mask(sample))


def polygon_mask(prediction: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """The union of a prediction's polygons, drawn by another library than the one that made them."""
    canvas = Image.new("1", (width, height))
    for item in prediction["result"]:
        if item["type"] == "polygonlabels":
            points = [(x * width / 100, y * height / 100) for x, y in item["value"]["points"]]
            ImageDraw.Draw(canvas).polygon(points, fill=1)
    return np.asarray(canvas)


def iou(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return float((left & right).sum() / max(1, (left | right).sum()))


@pytest.mark.parametrize("name", GOOD)
def test_every_good_file_gets_one_prediction_with_upright_geometry(polygons: Annotated, name: str) -> None:
    height, width = polygons.truth.shape
    (prediction,) = polygons.of(name)
    assert 0.0 <= prediction["score"] <= 1.0
    for item in prediction["result"]:
        assert (item["original_width"], item["original_height"], item["image_rotation"]) == (width, height, 0)


@pytest.mark.parametrize("name", ["plain.png", "phone.jpg"])
def test_the_prediction_covers_the_object(polygons: Annotated, name: str) -> None:
    (prediction,) = polygons.of(name)
    assert iou(polygon_mask(prediction, *polygons.truth.shape), polygons.truth) > 0.5


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_gets_none_and_harms_no_other(polygons: Annotated, name: str) -> None:
    assert polygons.of(name) == []
    assert all(polygons.of(good) for good in GOOD)


def test_a_single_pixel_is_answered_without_a_wrong_region(polygons: Annotated) -> None:
    assert all(outcome_of(0, 0, sample_of(POLYGON_TASK), [one]).regions == 0 for one in polygons.of("one.png"))


def test_asking_again_makes_no_duplicates(world: World, polygons: Annotated) -> None:
    world.client.retrieve_predictions(polygons.project)
    assert all(len(world.client.predictions(polygons.tasks[name])) == 1 for name in GOOD)
    versions = {polygons.of(name)[0]["model_version"] for name in GOOD}
    (row,) = world.client.json("GET", "/api/ml", params={"project": polygons.project})
    assert versions == {row["model_version"]}


@pytest.mark.parametrize("name", ["plain.png", "phone.jpg"])
def test_the_browser_draws_the_polygons_on_the_object(world: World, polygons: Annotated, page: Page, name: str) -> None:
    screenshot = ARTIFACTS / f"polygon-{Path(name).stem}.png"
    row = list(polygons.tasks).index(name)
    drawn = look_at_task(page, world.server.url, polygons.project, row, screenshot)
    (prediction,) = polygons.of(name)
    assert drawn.iou(polygon_mask(prediction, *polygons.truth.shape)) > 0.85
    assert drawn.iou(polygons.truth) > 0.5


@pytest.mark.parametrize("kind", ["PolygonLabels", "BrushLabels", "BitmaskLabels"])
def test_the_browser_draws_masks_on_the_object_of_a_phone_photo(
    world: World, page: Page, tmp_path: Path, kind: str
) -> None:
    sample = sample_of(BRUSH_TASK)
    project = world.client.create_project(f"e2e {kind}", CONFIG.format(kind=kind))
    scene = np.asarray(Image.open(sample.image).convert("RGB"))
    tasks = world.client.upload(project, [pictures.phone_photo(scene, tmp_path / "phone.jpg")])
    world.client.connect(project, world.backend, extra_params=BRUSH_TASK)
    (task,) = tasks.values()
    annotate(world, project, {task})
    drawn = look_at_task(page, world.server.url, project, 0, ARTIFACTS / f"{kind.lower()}-phone.png")
    assert drawn.iou(read_mask(sample)) > 0.5


def test_a_clear_object_is_outlined_as_a_person_would(world: World, page: Page) -> None:
    """The picture at the top of README.md is the screenshot of this test."""
    sample = sample_of(BRUSH_TASK)
    config = CONFIG.format(kind="PolygonLabels").replace("Thing", "Lesion").replace("#ff00ff", "#00d5ff")
    project = world.client.create_project("Skin lesions", config)
    others = [other.image for other in load_samples(samples_folder()) if other.task == BRUSH_TASK and other != sample]
    tasks = world.client.upload(project, [sample.image, *others])
    world.client.connect(project, world.backend, extra_params=BRUSH_TASK)
    task = tasks[sample.image.name]
    (prediction,) = annotate(world, project, set(tasks.values()))[task]
    truth = read_mask(sample)
    assert len(prediction["result"]) == 1
    assert iou(polygon_mask(prediction, *truth.shape), truth) > 0.95
    drawn = look_at_task(
        page, world.server.url, project, list(tasks).index(sample.image.name), ARTIFACTS / "readme.png"
    )
    assert drawn.iou(truth) > 0.9
