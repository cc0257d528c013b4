"""The bundled checkpoints, loaded by the ordinary code, on the bundled sample scenes. No font is needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from int_model import TaskPrompt, load_suite, make_strategy
from int_model.core.types import Box, Image, Mask
from int_model.evaluation.regions import overlap
from int_model.io.images import read_image
from int_model.models.protocols import MaskPrompt
from int_model.models.suite import ModelSuite
from int_model.nano.train import CHECKPOINTS, SAMPLES
from int_model.nano.world import NAMES
from int_model.strategies.registry import default_config

LISTED = json.loads((SAMPLES / "samples.json").read_text())


@pytest.fixture(scope="module")
def suite() -> ModelSuite:
    return load_suite("nano", device="cpu", offline=True)


def picture(entry: dict[str, str]) -> Image:
    return read_image(SAMPLES / entry["file"])


def truth(entry: dict[str, str]) -> Mask:
    return read_image(SAMPLES / entry["mask"])[..., 0] > 127


def test_the_checkpoints_are_small_and_ordinary() -> None:
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24 * 1024**2
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {
        "vlm",
        "detector",
        "segmenter",
        "clip",
        "habits_detector",
        "ppt",
    }
    assert not [path for path in files if path.suffix in {".pt", ".pth", ".bin", ".pkl"}]


def test_the_samples_cover_every_task() -> None:
    assert {entry["task"] for entry in LISTED} == {"camouflaged animal", "polyp", "skin lesion"}
    assert sum(path.stat().st_size for path in Path(SAMPLES).iterdir()) < 1024**2
    for entry in LISTED:
        assert truth(entry).shape == picture(entry).shape[:2]


def test_boxes_become_masks(suite: ModelSuite) -> None:
    single = [entry for entry in LISTED if entry["instances"] == 1]
    overlaps = []
    for entry in single:
        box = Box.of_mask(truth(entry))
        assert box is not None
        (embedding,) = suite.segmenter.encode([picture(entry)])
        (proposal,) = suite.segmenter.decode(embedding, [MaskPrompt(box=box)])
        overlaps.append(overlap(proposal.logits[proposal.best] > 0, truth(entry))["iou"])
    assert np.mean(overlaps) > 0.6


def test_crops_are_named_far_above_chance(suite: ModelSuite) -> None:
    texts = suite.text_image.embed_texts([f"a photo of a {name}." for name in NAMES])
    right = 0
    for entry in LISTED:
        image = picture(entry)
        box = Box.of_mask(truth(entry))
        assert box is not None
        x1, y1, x2, y2 = (int(v) for v in box.as_tuple())
        (crop,) = suite.text_image.embed_images([np.ascontiguousarray(image[y1:y2, x1:x2])])
        right += NAMES[int((texts @ crop).argmax())] == entry["name"]
    assert right >= len(LISTED) // 4  # chance: 1 in 40


def test_taking_the_object_away_changes_the_vlms_mind(suite: ModelSuite) -> None:
    """The premise of the method: without the object its name is less probable."""
    drops = []
    for entry in LISTED:
        image, mask, task = picture(entry), truth(entry), TaskPrompt(entry["task"])
        (removed,) = suite.inpainter.inpaint([image], [mask], ["background"], [entry["name"]])
        names = [entry["name"], *[other["name"] for other in LISTED if other["task"] == entry["task"]]]
        question = task.score_question(sorted(set(names)))
        before, after = suite.vlm.score([image, removed], [question] * 2, [[entry["name"]]] * 2)
        drops.append(float(before[0] - after[0]))
    assert np.mean(drops) > 0.05


@pytest.mark.parametrize("task", ["camouflaged animal", "polyp", "skin lesion"])
def test_int_finds_the_objects_of_the_sample_scenes(suite: ModelSuite, task: str) -> None:
    entries = [entry for entry in LISTED if entry["task"] == task]
    strategy = make_strategy("int", suite, default_config("int", suite.int_overrides))
    results = strategy.segment([picture(entry) for entry in entries], TaskPrompt(task))
    overlaps = [overlap(result.mask, truth(entry))["iou"] for result, entry in zip(results, entries, strict=True)]
    assert all(result.instances or result.reason for result in results)
    assert np.mean(overlaps) > 0.3, overlaps
