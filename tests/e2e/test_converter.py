"""Data sets as Label Studio's own converter reads them: its process, its code, our files."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageDraw
from pycocotools.coco import COCO
from typer.testing import CliRunner

from int_model.models import suite as suites
from ml_backend.cli import main as cli
from ml_backend.labelstudio.regions.decode import decode_region
from tests.support.fakes import fake_suite, scene

pytestmark = pytest.mark.e2e

SCENES = {
    "one": [("frog", 40, 40, 14)],
    "two": [("owl", 90, 60, 15), ("frog", 30, 30, 12)],
    "no": [],
}
IMPORT = """
import sys
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
convert_coco_to_ls(sys.argv[1], sys.argv[2], image_root_url="http://images.example/")
"""
BRUSH = """
import base64, json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
found = []
for task in json.load(open(sys.argv[1])):
    for region in task["predictions"][0]["result"]:
        pixels = decode_rle(region["value"]["rle"])
        shape = region["original_height"], region["original_width"], 4
        alpha = np.reshape(pixels, shape)[:, :, 3] > 0
        label = region["value"]["brushlabels"][0]
        packed = base64.b64encode(np.packbits(alpha).tobytes()).decode()
        found.append([task["data"]["file"], label, alpha.shape, packed])
json.dump(found, sys.stdout)
"""
EXPORT = """
import json, os, sys
from label_studio_sdk.converter.brush import convert_task_dir
from label_studio_sdk.converter import Converter
folder = sys.argv[1]
tasks = json.load(open(os.path.join(folder, "tasks-0001.json")))
for number, task in enumerate(tasks, 1):  # as if a person had submitted each prediction as it is
    result = task.pop("predictions")[0]["result"]
    task |= {"id": number, "annotations": [{"id": number, "completed_by": 1, "was_cancelled": False, "result": result}]}
json.dump(tasks, open(sys.argv[2] + ".tasks", "w"))
config = os.path.join(folder, "labeling_config.xml")
converter = Converter(config, project_dir=None, download_resources=False)
given, out, kind = sys.argv[2] + ".tasks", sys.argv[2], sys.argv[3]
os.makedirs(out)
if kind == "png":
    convert_task_dir(converter.iter_from_json_file(given), out, out_format="png")
else:
    getattr(converter, f"convert_to_{kind}")(given, out, is_dir=False)
"""


@pytest.fixture(scope="module")
def python(label_studio_program: Path) -> Path:
    """The interpreter that has Label Studio."""
    return label_studio_program.parent / "python"


def converted(python: Path, script: str, *arguments: Path | str) -> str:
    command = [python, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], np.ndarray]:
    """True masks by file and label, of the scenes in ``in``."""
    monkeypatch.setattr(suites, "load_suite", lambda *_, **__: fake_suite())
    monkeypatch.chdir(tmp_path)
    masks = {}
    for name, things in SCENES.items():
        image, found = scene(objects=things)
        (tmp_path / "in").mkdir(exist_ok=True)
        PilImage.fromarray(image).save(tmp_path / "in" / f"{name}.png")
        masks |= {(f"{name}.png", thing[0].title()): mask for thing, mask in zip(things, found, strict=True)}
    return masks


def bootstrap(tmp_path: Path, *options: str) -> Path:
    arguments = ["bootstrap", "in", "--task", "Frog=frog", "--task", "Owl=owl", "--strategy", "grounded_sam"]
    done = CliRunner().invoke(cli.app, [*arguments, "--out", "out", *options])
    assert done.exit_code == 0, done.output
    return tmp_path / "out"


def hold(found: dict[tuple[str, str], np.ndarray], truth: dict[tuple[str, str], np.ndarray], least: float) -> None:
    assert set(found) == set(truth)
    for key, mask in truth.items():
        assert (found[key] & mask).sum() >= least * (found[key] | mask).sum(), key


def test_it_imports_the_coco_export(tmp_path: Path, python: Path, truth: dict[tuple[str, str], np.ndarray]) -> None:
    out = bootstrap(tmp_path, "--formats", "coco", "--coco-segmentation", "polygon")
    converted(python, IMPORT, out / "annotations/instances_train.json", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    names = {image["file_name"]: image["source"] for image in _coco(out)["images"]}
    found: dict[tuple[str, str], np.ndarray] = {}
    for task in tasks:
        address = task["data"]["image"]
        assert address.startswith("http://images.example/")
        for region in task["annotations"][0]["result"]:
            if region["type"] == "polygonlabels":
                key = (names[address.removeprefix("http://images.example/")], region["value"]["polygonlabels"][0])
                mask = decode_region(region)
                found[key] = found[key] | mask if key in found else mask
    assert len(tasks) == 2  # it leaves out images without objects
    hold(found, truth, 0.85)


def _coco(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "annotations/instances_train.json").read_text())
    return read


def test_it_draws_our_brush_regions_pixel_for_pixel(
    tmp_path: Path, python: Path, truth: dict[tuple[str, str], np.ndarray]
) -> None:
    out = bootstrap(tmp_path, "--formats", "label-studio", "--ls-regions", "brush")
    file = out / "label-studio/tasks-0001.json"
    found: dict[tuple[str, str], np.ndarray] = {}
    for name, label, shape, packed in json.loads(converted(python, BRUSH, file)):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8), count=shape[0] * shape[1])
        found[name, label] = bits.reshape(shape).astype(bool)
    ours = {
        (task["data"]["file"], region["value"]["brushlabels"][0]): decode_region(region)
        for task in json.loads(file.read_text())
        for region in task["predictions"][0]["result"]
    }
    hold(found, ours, 1.0)
    hold(found, truth, 0.9)


def test_it_exports_our_polygons_as_coco(
    tmp_path: Path, python: Path, truth: dict[tuple[str, str], np.ndarray]
) -> None:
    out = bootstrap(tmp_path, "--formats", "label-studio", "--ls-regions", "polygon")
    converted(python, EXPORT, out / "label-studio", tmp_path / "exported", "coco")
    coco = COCO(tmp_path / "exported/result.json")
    files = [task["data"]["file"] for task in json.loads((out / "label-studio/tasks-0001.json").read_text())]
    labels = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    found: dict[tuple[str, str], np.ndarray] = {}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        key = (files[annotation["image_id"]], labels[annotation["category_id"]])
        found[key] = coco.annToMask(annotation).astype(bool)
    hold(found, truth, 0.85)


def test_its_png_masks_of_our_brush_regions_are_those_of_our_png_export(
    tmp_path: Path, python: Path, truth: dict[tuple[str, str], np.ndarray]
) -> None:
    out = bootstrap(tmp_path, "--formats", "label-studio,png", "--ls-regions", "brush")
    converted(python, EXPORT, out / "label-studio", tmp_path / "exported", "png")
    classes = {label: int(value) for value, label in json.loads((out / "masks/classes.json").read_text()).items()}
    found: dict[tuple[str, str], np.ndarray] = {}
    for number, task in enumerate(json.loads((out / "label-studio/tasks-0001.json").read_text()), 1):
        name = task["data"]["file"]
        semantic = np.asarray(PilImage.open(out / "masks/semantic" / task["data"]["split"] / name))
        for file in (tmp_path / "exported").glob(f"task-{number}-*-0.png"):
            label = file.stem.split("-")[-2]
            found[name, label] = np.asarray(PilImage.open(file)) > 0
            np.testing.assert_array_equal(found[name, label], semantic == classes[label])
    hold(found, truth, 0.9)


def test_its_yolo_export_of_our_polygons_holds_the_objects_of_our_yolo_export(
    tmp_path: Path, python: Path, truth: dict[tuple[str, str], np.ndarray]
) -> None:
    out = bootstrap(tmp_path, "--formats", "label-studio,yolo", "--ls-regions", "polygon")
    converted(python, EXPORT, out / "label-studio", tmp_path / "exported", "yolo")
    theirs = (tmp_path / "exported/classes.txt").read_text().split()
    assert theirs == ["Frog", "Owl"]
    for name in {key[0] for key in truth}:
        size = next(mask.shape for key, mask in truth.items() if key[0] == name)
        labels = f"{Path(name).stem}.txt"
        found = _drawn(tmp_path / "exported/labels" / labels, size)
        written = _drawn(out / "labels/train" / labels, size)
        assert {theirs[number] for number in found} == {key[1] for key in truth if key[0] == name}
        hold({(name, theirs[k]): v for k, v in found.items()}, {(name, theirs[k]): v for k, v in written.items()}, 0.9)


def _drawn(file: Path, size: tuple[int, ...]) -> dict[int, np.ndarray]:
    """The polygons of a YOLO label file, by class, drawn by Pillow."""
    found = {}
    for line in file.read_text().splitlines():
        number, *places = line.split()
        picture = PilImage.new("1", (size[1], size[0]))
        corners = (np.array(places, float).reshape(-1, 2) * (size[1], size[0]) - 0.5).ravel().tolist()
        ImageDraw.Draw(picture).polygon(corners, fill=1)
        found[int(number)] = np.asarray(picture).copy()
    return found
