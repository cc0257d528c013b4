"""Label Studio exports as truth: whichever annotation counts, every kind of region, images found by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.evaluation import BrokenExample, Example
from ml_backend.labelstudio.exports import ExportedTasks
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.rle import encode_mask

HEIGHT, WIDTH = 40, 60
MASK = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
MASK[8:24, 12:36] = True


def region(kind: str, label: str = "Polyp", **more: Any) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {
        "polygonlabels": {"points": [[20, 20], [60, 20], [60, 60], [20, 60]], "closed": True},
        "brushlabels": {"format": "rle", "rle": encode_mask(MASK)},
        "bitmasklabels": {"imageDataURL": encode_bitmask(MASK)},
        "rectanglelabels": {"x": 20, "y": 20, "width": 40, "height": 40, "rotation": 0},
    }
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    return {"id": kind, "type": kind, "value": {**values[kind], kind: [label]}, **size, **more}


def annotation(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"result": list(regions), "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z", **more}


def export(folder: Path, *annotations: list[dict[str, Any]], image: str = "/data/upload/1/0a1b2c3d-cat.png") -> Path:
    (folder / "images" / "sub").mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / "images" / "sub" / "cat.png")
    tasks = [{"id": i, "data": {"text": "hello", "image": image}, "annotations": a} for i, a in enumerate(annotations)]
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def read(file: Path, labels: tuple[str, ...] = ()) -> list[Example | BrokenExample]:
    return list(ExportedTasks.read(file, file.parent / "images", "polyp", labels))


@pytest.mark.parametrize("kind", ["polygonlabels", "brushlabels", "bitmasklabels", "rectanglelabels"])
def test_every_kind_of_region_is_an_object(kind: str, tmp_path: Path) -> None:
    (found,) = read(export(tmp_path, [annotation(region(kind))]))
    assert isinstance(found, Example)
    assert found.id == "task 0, cat.png"
    assert found.instances is not None
    np.testing.assert_array_equal(found.instances[0], MASK)


def test_labels_choose_objects_and_halves_of_a_pair_belong_together(tmp_path: Path) -> None:
    bare = region("brushlabels")
    del bare["value"]["brushlabels"]
    half = {**bare, "type": "labels", "value": {**bare["value"], "labels": ["Tool"]}}
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    file = export(tmp_path, [annotation(region("polygonlabels"), {**bare, "type": "brush"}, half, choice)])
    for labels, count in (((), 2), (("Tool",), 1), (("Polyp",), 1), (("Cat",), 0)):
        (found,) = read(file, labels)
        assert isinstance(found, Example)
        assert len(found.instances or ()) == count, labels


def test_ground_truth_goes_before_what_is_newer_and_cancelled_never_counts(tmp_path: Path) -> None:
    two = annotation(region("polygonlabels"), region("brushlabels"))
    one = annotation(region("polygonlabels"), updated_at="2026-05-05T00:00:00Z")
    none = annotation(updated_at="2026-09-09T00:00:00Z", was_cancelled=True)
    truth = annotation(updated_at="2020-01-01T00:00:00Z", ground_truth=True)
    file = export(tmp_path, [two, one, none], [two, one, truth], [none], [])
    data = ExportedTasks.read(file, tmp_path / "images", "polyp")
    assert (len(data), data.skipped) == (2, 2)
    assert [len(found.instances or ()) for found in data if isinstance(found, Example)] == [1, 0]


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/0a1b2c3d-cat.png",
        "https://images.example.org/a/cat.png?X-Token=1",
        "/data/local-files/?d=pictures/sub/cat.png",
        "s3://bucket/sub/cat.png",
        "cat.png",
    ],
)
def test_images_are_found_by_the_names_that_tasks_have(address: str, tmp_path: Path) -> None:
    (found,) = read(export(tmp_path, [annotation(region("brushlabels"))], image=address))
    assert isinstance(found, Example)


def test_what_does_not_fit_is_that_task_s_failure(tmp_path: Path) -> None:
    small = region("polygonlabels", original_width=30)
    oval = region("polygonlabels")
    oval["value"] = {"x": 1, "y": 1, "radiusX": 4, "radiusY": 4}
    for wrong, sentence in ((small, "its regions are for 30 x 40 pixels"), (oval, "have no mask")):
        (found,) = read(export(tmp_path, [annotation(wrong)]))
        assert isinstance(found, BrokenExample)
        assert sentence in found.error
    (found,) = read(export(tmp_path, [annotation(region("brushlabels"))], image="dog.png"))
    assert isinstance(found, BrokenExample)
    assert "its image is not in the folder" in found.error
    PilImage.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / "cat.png")
    (found,) = read(export(tmp_path, [annotation(region("brushlabels"))]))
    assert isinstance(found, BrokenExample)
    assert "2 images are called 'cat.png'" in found.error


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("nonsense", "is not JSON"),
        ("{}", "export as JSON, not JSON-MIN"),
        ('[{"image": "a.png", "label": []}]', "export as JSON, not JSON-MIN"),
        ('[{"id": 1, "data": {}, "annotations": []}]', "no task in .* is annotated"),
    ],
)
def test_other_files_are_one_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    file = export(tmp_path)
    file.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        ExportedTasks.read(file, tmp_path / "images", "polyp")
