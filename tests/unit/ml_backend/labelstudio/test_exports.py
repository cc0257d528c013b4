"""Label Studio exports as truth: whichever annotation counts, every kind of region, images found by name."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.evaluation import BrokenExample, Example
from ml_backend.labelstudio.exports import ExportedExamples, ExportedTask
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.rle import encode_mask

HEIGHT, WIDTH = 40, 60
MASK = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
MASK[8:24, 12:36] = True
SIZELESS = "a region has the whole numbers original_width and original_height"
VERTICES = [
    {"id": "a", "x": 20, "y": 20, "prevPointId": None, "isBezier": False},
    {"id": "b", "x": 60, "y": 20, "prevPointId": "a", "isBezier": False},
    {"id": "c", "x": 60, "y": 60, "prevPointId": "b", "isBezier": False},
    {"id": "d", "x": 20, "y": 60, "prevPointId": "c", "isBezier": False},
]


def region(kind: str, label: str = "Polyp", **more: Any) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {
        "polygonlabels": {"points": [[20, 20], [60, 20], [60, 60], [20, 60]], "closed": True},
        "brushlabels": {"format": "rle", "rle": encode_mask(MASK)},
        "bitmasklabels": {"imageDataURL": encode_bitmask(MASK)},
        "rectanglelabels": {"x": 20, "y": 20, "width": 40, "height": 40, "rotation": 0},
        "vectorlabels": {"vertices": VERTICES, "closed": True},
        "ellipselabels": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0},
        "keypointlabels": {"x": 50, "y": 50, "width": 1},
        "cuboidlabels": {"corners": [1, 2, 3]},
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


def read(
    file: Path, labels: tuple[str, ...] = (), told: list[str] | None = None, *, every: bool = False
) -> list[Example | BrokenExample]:
    tell = ([] if told is None else told).append
    return list(ExportedExamples.read(file, file.parent / "images", "polyp", labels, every=every, tell=tell))


@pytest.mark.parametrize("kind", ["polygonlabels", "brushlabels", "bitmasklabels", "rectanglelabels", "vectorlabels"])
def test_every_kind_of_region_is_an_object(kind: str, tmp_path: Path) -> None:
    (found,) = read(export(tmp_path, [annotation(region(kind))]))
    assert isinstance(found, Example)
    assert found.id == "task 0, cat.png"
    assert found.instances is not None
    np.testing.assert_array_equal(found.instances[0], MASK)


def test_an_ellipse_is_an_object_among_others(tmp_path: Path) -> None:
    (found,) = read(export(tmp_path, [annotation(region("polygonlabels"), region("ellipselabels"))]))
    assert isinstance(found, Example), "one ellipse used to break the whole task"
    assert found.instances is not None
    np.testing.assert_array_equal(found.instances[0], MASK)
    assert found.instances[1].sum() == pytest.approx(np.pi * 6 * 8, rel=0.02)
    assert found.instances[1][20, 30]


def test_what_is_no_area_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    short = region("polygonlabels", id="short")
    short["value"]["points"] = [[1, 1], [2, 2]]
    line = region("vectorlabels", id="line")
    line["value"]["closed"] = False
    curve = region("vectorlabels", id="curve")
    curve["value"]["vertices"] = [{**VERTICES[0], "isBezier": True}, *VERTICES[1:]]
    sizeless = region("rectanglelabels", id="sizeless", original_width=None)
    said = [
        {"id": "brushlabels", "type": "textarea", "value": {"text": ["a note on the stroke"]}},
        {"id": "q", "type": "choices", "value": {"choices": ["good"]}},
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    odd = [region("keypointlabels"), region("cuboidlabels"), short, line, curve, sizeless, *said]
    told: list[str] = []
    first, second = read(
        export(tmp_path, [annotation(*odd, region("brushlabels"))], [annotation(region("keypointlabels"))]), told=told
    )
    assert isinstance(first, Example)
    assert isinstance(second, Example)
    assert [len(found.instances or ()) for found in (first, second)] == [1, 0]
    assert told == [
        "task 0: region keypointlabels (keypointlabels) is not an area; left out",
        "task 0: region cuboidlabels (cuboidlabels) is not an area; left out",
        "task 0: region short (polygonlabels) is damaged: a polygon has at least 3 points, each [x, y]; left out",
        "task 0: region line (vectorlabels) is not an area; left out",
        "task 0: region curve (vectorlabels) is not an area; left out",
        f"task 0: region sizeless (rectanglelabels) is damaged: {SIZELESS}; left out",
        "task 1: region keypointlabels (keypointlabels) is not an area; left out",
    ]


@pytest.mark.parametrize("kind", ["polygonlabels", "brushlabels", "bitmasklabels", "rectanglelabels", "ellipselabels"])
def test_a_size_that_only_the_file_claims_takes_no_memory(kind: str, tmp_path: Path) -> None:
    vast = region(kind, original_width=300_000, original_height=300_000)
    tracemalloc.start()
    (found,) = read(export(tmp_path, [annotation(vast)]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, BrokenExample)
    assert "its regions are for 300000 x 300000 pixels, the image has 60 x 40" in found.error
    assert peak < 10_000_000


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
    two = annotation(region("polygonlabels"), region("brushlabels"), id=1)
    one = annotation(region("polygonlabels"), id=2, updated_at="2026-05-05T00:00:00Z")
    none = annotation(updated_at="2026-09-09T00:00:00Z", was_cancelled=True)
    truth = annotation(id=3, updated_at="2020-01-01T00:00:00Z", ground_truth=True)
    file = export(tmp_path, [two, one, none], [two, one, truth], [none], [])
    data = ExportedExamples.read(file, tmp_path / "images", "polyp")
    assert (len(data), data.skipped) == (2, 2)
    assert [len(found.instances or ()) for found in data if isinstance(found, Example)] == [1, 0]
    every = [found for found in read(file, every=True) if isinstance(found, Example)]
    assert [len(found.instances or ()) for found in every] == [2, 1, 2, 1, 0]
    assert len({found.id for found in every}) == 5


def test_one_annotation_of_a_task_counts_unless_all_are_wanted() -> None:
    older, newer = annotation(id=1, updated_at="2026-01-01"), annotation(id=2, updated_at="", created_at="2026-02-02")
    task = ExportedTask("task 1", {"annotations": [older, newer, annotation(id=3, was_cancelled=True)]})
    assert [one["id"] for one in task.annotations()] == [2]
    assert [one["id"] for one in task.annotations(every=True)] == [1, 2]
    assert ExportedTask("task 2", {"annotations": None}).annotations() == []


def test_a_region_without_a_pixel_is_named(tmp_path: Path) -> None:
    speck = region("polygonlabels", id="speck")
    speck["value"]["points"] = [[1, 1], [1.1, 1], [1.1, 1.1]]
    told: list[str] = []
    (found,) = read(export(tmp_path, [annotation(speck, region("brushlabels"))]), told=told)
    assert isinstance(found, Example)
    assert len(found.instances or ()) == 1
    assert told == ["task 0: region speck covers no pixel; left out"]


def test_regions_without_an_id_are_apart(tmp_path: Path) -> None:
    bare = [{name: value for name, value in region(kind).items() if name != "id"} for kind in ("brushlabels",) * 2]
    (found,) = read(export(tmp_path, [annotation(*bare)]))
    assert isinstance(found, Example)
    assert len(found.instances or ()) == 2


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/0a1b2c3d-cat.png",
        "https://images.example.org/a/cat.png?X-Token=1",
        "/data/local-files/?d=pictures/sub/cat.png",
        "s3://bucket/sub/cat.png",
        "cat.png",
        "https://images.example.org/a/cat.png?d=dog.png",
    ],
)
def test_images_are_found_by_the_names_that_tasks_have(address: str, tmp_path: Path) -> None:
    (found,) = read(export(tmp_path, [annotation(region("brushlabels"))], image=address))
    assert isinstance(found, Example)


def test_what_does_not_fit_is_that_task_s_failure(tmp_path: Path) -> None:
    small = region("polygonlabels", original_width=30)
    (found,) = read(export(tmp_path, [annotation(small)]))
    assert isinstance(found, BrokenExample)
    assert "its regions are for 30 x 40 pixels" in found.error
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
        ("[7]", "export as JSON, not JSON-MIN"),
        ('[{"id": 1, "data": "x"}]', "export as JSON, not JSON-MIN"),
        ('[{"image": "a.png", "label": []}]', "export as JSON, not JSON-MIN"),
        ('[{"id": 1, "data": {}, "annotations": []}]', "no task in .* is annotated"),
    ],
)
def test_other_files_are_one_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    file = export(tmp_path)
    file.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        ExportedExamples.read(file, tmp_path / "images", "polyp")
