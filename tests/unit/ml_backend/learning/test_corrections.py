from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from int_model.nano.conventions import annotated_scene
from ml_backend.labelstudio.exports import Area, ExportedExamples
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.learning.corrections import UNCHANGED_WEIGHT, Corrections, clicks_on
from ml_backend.storage.clicks import LoggedClick
from tests.support.corrected import brush_region, corrected_export

PROMPTS = {"Polyp": "polyp", "Lesion": "skin lesion"}
LABELS = {"polyp": "Polyp", "skin lesion": "Lesion"}


def read(folder: Path, change: Callable[[list[Any]], None] | None = None, **options: Any) -> Corrections:
    export, images = corrected_export(folder, "halo", 4, label_of=LABELS, data=[{"patient": "a"}, {"patient": "a"}])
    if change is not None:
        tasks = json.loads(export.read_text())
        change(tasks)
        export.write_text(json.dumps(tasks))
    return Corrections(ExportedExamples.read(export, images, "polyp"), PROMPTS, **options)


def test_an_annotation_becomes_an_example_with_the_very_masks_and_the_prompt_of_its_label(tmp_path: Path) -> None:
    examples = list(read(tmp_path))
    assert [example.id for example in examples] == [f"task {i + 1}, scene-{i:03d}.png" for i in range(4)]
    for index, example in enumerate(examples):
        scene = annotated_scene("halo", index)
        assert {target.label for target in example.targets} == {scene.task}
        assert len(example.targets) == len(scene.masks)
        for target, mask in zip(example.targets, scene.masks, strict=True):
            assert np.array_equal(target.mask, mask)
            assert target.weight == 1.0


def test_images_of_a_patient_belong_together(tmp_path: Path) -> None:
    units = [example.unit for example in read(tmp_path, group_field="patient")]
    assert units[0] == units[1] == "patient=a"
    assert len(set(units)) == 3


def test_labels_without_a_prompt_and_skipped_tasks_teach_nothing(tmp_path: Path) -> None:
    def change(tasks: list[Any]) -> None:
        tasks[0]["annotations"][0]["was_cancelled"] = True
        for region in tasks[1]["annotations"][0]["result"]:
            region["value"]["brushlabels"] = ["Something else"]

    examples = list(read(tmp_path, change))
    assert len(examples) == 3
    assert examples[0].targets == ()


def shown(tasks: list[Any], index: int, seconds: float) -> None:
    annotation = tasks[index]["annotations"][0]
    tasks[index]["predictions"] = [{"id": 7, "result": annotation["result"], "model_version": "int-nano-1"}]
    annotation["parent_prediction"] = 7
    annotation["lead_time"] = seconds


def test_a_prediction_that_was_accepted_unchanged_counts_less(tmp_path: Path) -> None:
    examples = list(read(tmp_path, lambda tasks: shown(tasks, 2, 9.0)))
    assert {target.weight for target in examples[2].targets} == {UNCHANGED_WEIGHT}
    assert {target.weight for target in examples[1].targets} == {1.0}


def test_a_prediction_that_was_accepted_within_a_second_teaches_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    corrections = read(tmp_path, lambda tasks: shown(tasks, 2, 0.4), tell=told.append)
    assert len(list(corrections)) == 3
    assert told == ["task 3, scene-002.png: the prediction was accepted within a second"]
    assert corrections.left_out == told


def test_a_changed_prediction_counts_in_full(tmp_path: Path) -> None:
    def change(tasks: list[Any]) -> None:
        shown(tasks, 2, 0.4)
        tasks[2]["predictions"][0]["result"] = []

    assert {target.weight for target in list(read(tmp_path, change))[2].targets} == {1.0}


def test_a_missing_image_leaves_out_its_task_alone(tmp_path: Path) -> None:
    told: list[str] = []
    corrections = read(tmp_path, tell=told.append)
    (tmp_path / "images" / "scene-001.png").write_bytes(b"not an image")
    assert len(list(corrections)) == 3
    assert told[0].startswith("task 2: ")


@pytest.mark.parametrize("number", [None, 8])
def test_an_annotation_without_its_prediction_counts_in_full(tmp_path: Path, number: int | None) -> None:
    def change(tasks: list[Any]) -> None:
        shown(tasks, 2, 0.4)
        tasks[2]["annotations"][0]["parent_prediction"] = number

    assert len(list(read(tmp_path, change))) == 4


def second_annotator(tasks: list[Any], index: int, shift: int, **more: Any) -> None:
    """Somebody else annotated the task too, with every mask moved to the right."""
    first = tasks[index]["annotations"][0] | {"completed_by": 1}
    masks = [decode_region(region) for region in first["result"]]
    result = [brush_region(np.roll(mask, shift, axis=1), r["value"]["brushlabels"][0], r["id"])
              for mask, r in zip(masks, first["result"], strict=True)]  # fmt: skip
    other = {**first, "id": 900, "completed_by": 2, "result": result, **more}
    tasks[index]["annotations"] = [first, other]


@pytest.mark.parametrize(("shift", "kept"), [(1, 4), (60, 3)])
def test_images_on_which_two_people_disagree_teach_nothing(tmp_path: Path, shift: int, kept: int) -> None:
    told: list[str] = []
    corrections = read(tmp_path, lambda tasks: second_annotator(tasks, 1, shift), tell=told.append)
    assert len(list(corrections)) == kept
    assert [("its annotators disagree (IoU 0." in line) for line in told] == [True] * (4 - kept)


def test_a_ground_truth_settles_a_disagreement(tmp_path: Path) -> None:
    examples = list(read(tmp_path, lambda tasks: second_annotator(tasks, 1, 60, ground_truth=True)))
    assert len(examples) == 4


def call(*points: tuple[float, float, int], label: str = "Polyp", size: tuple[int, int] = (40, 50)) -> LoggedClick:
    places = tuple((x, y) for x, y, _ in points)
    return LoggedClick(3, label, size, places, tuple(sign for _, _, sign in points))


def test_an_object_gets_the_clicks_that_it_was_made_with() -> None:
    mask = np.zeros((40, 50), dtype=np.bool_)
    mask[10:20, 10:30] = True
    area = Area(("Polyp",), mask)
    calls = [
        call((12.5, 12.5, 1)),
        call((12.5, 12.5, 1), (40.0, 30.0, 0)),
        call((12.5, 12.5, 1), (40.0, 30.0, 0), (25.0, 15.0, 1)),
        call((45.0, 35.0, 1)),  # another object's
        call((13.0, 13.0, 1), label="Lesion"),
        call((13.0, 13.0, 1), size=(41, 50)),
        call((13.0, 13.0, 1), (14.0, 14.0, 0)),  # the outline was corrected by hand: it contradicts the click
        call((28.0, 18.0, 1)),
    ]
    first, second = clicks_on(area, calls)
    assert first.points.tolist() == [[12.5, 12.5], [40.0, 30.0], [25.0, 15.0]]
    assert first.labels.tolist() == [1, 0, 1]
    assert second.points.tolist() == [[28.0, 18.0]]
    assert clicks_on(area, []) == ()
