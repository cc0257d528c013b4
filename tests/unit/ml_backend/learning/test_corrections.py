from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from int_model.nano.conventions import annotated_scene
from ml_backend.labelstudio.exports import ExportedExamples
from ml_backend.learning.corrections import UNCHANGED_WEIGHT, Corrections
from tests.support.corrected import corrected_export

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
