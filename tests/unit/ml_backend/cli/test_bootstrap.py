"""``int-backend bootstrap`` with fake models: the files, the messages, resuming, and the exit status."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image as PilImage
from pycocotools.coco import COCO
from typer.testing import CliRunner

from int_model.models import suite as suites
from ml_backend.cli import main as cli
from ml_backend.cli.bootstrap_options import FORMATS, parse_formats, parse_tasks
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.validation import problem
from ml_backend.labelstudio.wire import RegionOut
from tests.support.fakes import FakeSegmenter, fake_suite, scene

TASKS = ("--task", "Frog=frog", "--task", "owl")
Run = Callable[..., Result]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes in place of checkpoints; the profiles that were loaded."""
    calls: list[str] = []

    def load(profile: Any, **_: Any) -> Any:
        calls.append(profile.name)
        print("a library that prints to stdout")  # noqa: T201
        return fake_suite()

    monkeypatch.setattr(suites, "load_suite", load)
    return calls


@pytest.fixture
def run(loads: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, strategy: str = "grounded_sam") -> Result:
        options = ["bootstrap", "in", "--out", "out", "--strategy", strategy]
        return CliRunner().invoke(cli.app, [*options, *arguments], env={"COLUMNS": "200", "TERM": "dumb"})

    return invoke


def save(path: Path, *objects: tuple[str, int, int, int], size: tuple[int, int] = (96, 128)) -> dict[str, np.ndarray]:
    """A scene as a file; the true mask by label."""
    image, masks = scene(*size, objects=objects)
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(image).save(path)
    none = np.zeros(size, bool)
    return {
        label: np.logical_or.reduce([none, *(m for m, o in zip(masks, objects, strict=True) if o[0] == name)])
        for label, name in (("Frog", "frog"), ("owl", "owl"))
    }


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Two frogs; an owl and a frog in a folder below; sand alone; by relative name."""
    return {
        "two.png": save(tmp_path / "in/two.png", ("frog", 40, 40, 14), ("frog", 100, 50, 12)),
        "deep/both.png": save(tmp_path / "in/deep/both.png", ("owl", 90, 60, 15), ("frog", 30, 30, 12)),
        "deep/none.png": save(tmp_path / "in/deep/none.png"),
        "other.png": save(tmp_path / "in/other.png", ("frog", 64, 70, 20), size=(128, 96)),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def coco_unions(out: Path) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for file in (out / "annotations").iterdir():
        coco = COCO(file)
        names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
        for image in coco.loadImgs(coco.getImgIds()):
            masks = {name: np.zeros((image["height"], image["width"]), bool) for name in names.values()}
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                masks[names[annotation["category_id"]]] |= coco.annToMask(annotation).astype(bool)
            found[image["source"]] = masks
    return found


def test_a_folder_becomes_a_data_set_of_all_formats(run: Run, tmp_path: Path, truth: dict[str, Any]) -> None:
    result = run(*TASKS, "--review", "--licence", "CC0-1.0", "--val", "0.25")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "4 images (train 3, val 1) with 5 objects, 1 images without any" in result.stderr
    out = tmp_path / "out"
    unions = coco_unions(out)
    assert set(unions) == set(truth)
    for name, masks in truth.items():
        for label, mask in masks.items():
            assert iou(unions[name][label], mask) > 0.9, (name, label)
    parts = {"annotations", "labels", "data.yaml", "masks", "label-studio", "images", "review", "splits.csv"}
    assert parts | {"abstained.csv", "failed.csv", "dataset_card.md", "dataset_card.json", ".bootstrap"} == {
        entry.name for entry in out.iterdir()
    }
    made = json.loads((out / "dataset_card.json").read_text())["made"]
    assert (made["strategy"], made["profile"], made["licence_of_the_images"]) == ("grounded_sam", "nano", "CC0-1.0")
    assert len(made["configuration_fingerprint"]) == len(made["models_fingerprint"]) == 16
    abstained = {(row["image"], row["label"]) for row in csv.DictReader((out / "abstained.csv").open())}
    assert abstained == {("two.png", "owl"), ("other.png", "owl"), ("deep/none.png", "Frog"), ("deep/none.png", "owl")}


@pytest.mark.parametrize("kind", ["polygon", "brush", "bitmask", "rectangle"])
def test_label_studio_tasks_are_valid_and_show_the_masks(
    run: Run, tmp_path: Path, truth: dict[str, Any], kind: str
) -> None:
    assert run(*TASKS, "--formats", "label-studio", "--ls-regions", kind).exit_code == 0
    folder = tmp_path / "out" / "label-studio"
    assert sorted(entry.name for entry in folder.iterdir()) == ["labeling_config.xml", "tasks-0001.json"]
    config = parse_label_config((folder / "labeling_config.xml").read_text())
    assert [(label.value, label.prompt) for label in config.controls[0].labels] == [("Frog", "frog"), ("owl", "owl")]
    tasks = json.loads((folder / "tasks-0001.json").read_text())
    assert [task["data"]["file"] for task in tasks] == ["other.png", "two.png", "deep/both.png", "deep/none.png"]
    for task in tasks:
        masks = truth[task["data"]["file"]]
        (prediction,) = task["predictions"]
        assert prediction["model_version"].startswith("int-nano-grounded_sam-")
        shown = {label: np.zeros_like(mask) for label, mask in masks.items()}
        for region in prediction["result"]:
            assert problem(RegionOut.model_validate(region), config) is None
            (label,) = region["value"][f"{kind}labels"]
            shown[label] |= decode_region(region)
        for label, mask in masks.items():
            assert iou(shown[label], mask) > (0.6 if kind == "rectangle" else 0.9)
        assert (prediction["score"] > 0) == any(mask.any() for mask in masks.values())
        assert task["data"]["image"] == f"/data/local-files/?d=in/{task['data']['file']}"
    again = (folder / "tasks-0001.json").read_bytes()
    assert run(*TASKS, "--formats", "label-studio", "--ls-regions", kind).exit_code == 0
    assert (folder / "tasks-0001.json").read_bytes() == again, "the same data set is the same file"


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (["--ls-url-prefix", "https://x.org/a/"], "https://x.org/a/sub%20dir/%C3%BC%20%231.png"),
        (["--ls-url-prefix", "s3://bucket"], "s3://bucket/sub%20dir/%C3%BC%20%231.png"),
        (["--ls-local-root", "in"], "/data/local-files/?d=sub%20dir/%C3%BC%20%231.png"),
    ],
)
def test_addresses_of_images_are_quoted(run: Run, tmp_path: Path, options: list[str], address: str) -> None:
    save(tmp_path / "in/sub dir/ü #1.png", ("frog", 40, 40, 14))
    assert run(*TASKS, "--formats", "label-studio", *options).exit_code == 0
    (task,) = json.loads((tmp_path / "out/label-studio/tasks-0001.json").read_text())
    assert task["data"]["image"] == address


def test_a_second_run_loads_no_models_and_export_options_need_none(
    run: Run, tmp_path: Path, truth: dict[str, Any], loads: list[str]
) -> None:
    assert run(*TASKS).exit_code == 0
    (tmp_path / "rejected.txt").write_text("two.png\nnot-there.png\n")
    result = run(*TASKS, "--formats", "coco,png", "--images", "none", "--exclude", "rejected.txt", "--min-score", "0.2")
    assert result.exit_code == 0, result.output
    assert loads == ["nano"]
    assert "4 of 4 images are done from an earlier run" in result.stderr
    assert "1 names in --exclude are none of the images" in result.stderr
    assert set(coco_unions(tmp_path / "out")) == set(truth) - {"two.png"}
    assert not (tmp_path / "out" / "labels").exists(), "what is no longer asked for goes"
    assert not (tmp_path / "out" / "images").exists()
    names = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["images"]
    assert {image["file_name"] for image in names} <= set(truth), "the originals' own names"


def test_changed_settings_start_anew_and_say_so(
    run: Run, tmp_path: Path, truth: dict[str, Any], loads: list[str]
) -> None:
    assert run(*TASKS).exit_code == 0
    changed = run("--task", "Frog=owl", "--task", "owl")
    assert "the settings differ from the last run (prompt of 'Frog': frog -> owl)" in changed.stderr
    assert len(loads) == 1, "an owl was looked for already"
    changed = run(*TASKS, "--set", "detector.box_threshold=0.3")
    assert "configuration: " in changed.stderr
    assert "4 of 4 images segmented" in changed.stderr
    back = run(*TASKS)
    assert "4 of 4 images are done from an earlier run" in back.stderr
    assert len(loads) == 2


class Tired(FakeSegmenter):
    """Someone presses Ctrl-C while the third image is encoded."""

    count = 0

    def encode(self, images: Any) -> Any:
        Tired.count += len(images)
        if Tired.count > 2:
            raise KeyboardInterrupt
        return super().encode(images)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    run: Run, tmp_path: Path, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Tired.count = 0
    with monkeypatch.context() as patched:
        patched.setattr(suites, "load_suite", lambda *_, **__: fake_suite(segmenter=Tired()))
        result = run("--task", "frog", "--batch-size", "1")
    assert result.exit_code == 130, result.output
    assert "stopped; 2 of 4 images are kept. Run the same command again to go on" in result.stderr
    assert not (tmp_path / "out/annotations").exists()
    partly = run("--task", "frog", "--export-only")
    assert partly.exit_code == 0
    assert "2 images are not done yet" in partly.stderr
    assert len(coco_unions(tmp_path / "out")) == 2
    rest = run("--task", "frog")
    assert "2 of 2 images segmented" in rest.stderr
    assert len(coco_unions(tmp_path / "out")) == 4


def test_broken_images_are_listed_and_tried_again_when_asked(run: Run, tmp_path: Path, truth: dict[str, Any]) -> None:
    broken = tmp_path / "in/[red]broken.png"
    broken.write_bytes(b"<html>")
    first = run(*TASKS, "--review")
    assert first.exit_code == 1
    assert "1 images failed: see out/failed.csv; --retry-failed tries them again" in first.stderr
    (row,) = csv.DictReader((tmp_path / "out/failed.csv").open())
    assert row["image"] == "[red]broken.png"
    assert "looks like HTML" in row["reason"]
    assert "looks like HTML" in (tmp_path / "out/review/failed-0001.html").read_text()
    state = broken.stat()
    save(tmp_path / "whole.png", ("frog", 40, 40, 14))
    again = run(*TASKS)
    assert again.exit_code == 1
    assert "(1 failed; --retry-failed tries them again)" in again.stderr
    assert state == broken.stat()
    (tmp_path / "whole.png").replace(broken)
    assert run(*TASKS, "--retry-failed").exit_code == 0
    assert len(coco_unions(tmp_path / "out")) == 5


def test_a_data_set_inside_the_folder_of_images_is_not_read_back(run: Run, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", ("frog", 40, 40, 14))
    for _ in range(2):
        assert run("--task", "frog", "--out", "in/set", "--images", "copy", "--review").exit_code == 0
    assert list(coco_unions(tmp_path / "in/set")) == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", " "], "the task prompt is empty"),
        (["--task", "=frog"], "has no label before the equals sign"),
        (["--task", "A=frog", "--task", "a=owl"], "the label 'a' is given twice"),
        (["--task", "frog", "--formats", "coco,voc"], "there is no format 'voc'; choose of: coco, yolo"),
        (["--task", "frog", "--formats", ","], "--formats is empty"),
        (["--task", "frog", "--images", "none"], "leave yolo out of --formats"),
        (["--task", "frog", "--ls-url-prefix", "x.org"], "'x.org' is no address"),
        (["--task", "frog", "--ls-url-prefix", "/a", "--ls-local-root", "in"], "not both"),
        (["--task", "frog", "--val", "0.6", "--test", "0.4"], "together below 1"),
        (["--task", "frog", "--min-score", "2"], "--min-score lies between 0 and 1"),
        (["--task", "frog", "--duplicate-distance", "40"], "0 to 16 bits"),
        (["--task", "frog", "--exclude", "nowhere.txt"], "the list 'nowhere.txt' cannot be read"),
        (["--task", "frog", "--out", "full"], "holds other files"),
        (["--task", "frog", "--set", "x=1"], "there is no option 'x'"),
        (["--task", "frog", "--profile", "huge"], "there is no profile 'huge'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    run: Run, tmp_path: Path, loads: list[str], arguments: list[str], sentence: str
) -> None:
    save(tmp_path / "in/a.png", ("frog", 40, 40, 14))
    save(tmp_path / "full/a.png")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("int-backend: ")
    assert sentence in line
    assert not loads
    assert not (tmp_path / "out/annotations").exists()


def test_tasks_are_labels_and_prompts() -> None:
    found = parse_tasks(["Polyp=a small polyp", "skin  lesion.", "x=a=b"])
    assert [(label, task.text) for label, task in found] == [
        ("Polyp", "a small polyp"),
        ("skin lesion", "skin lesion"),
        ("x", "a=b"),
    ]


def test_formats_in_any_spelling() -> None:
    assert parse_formats(["yolo, COCO", "png"]) == ("coco", "yolo", "png")
    assert parse_formats(FORMATS) == FORMATS
