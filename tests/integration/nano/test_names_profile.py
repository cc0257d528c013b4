"""The profile nano-names: the first kit with a detector that was taught names, not task prompts."""

from __future__ import annotations

import numpy as np
import pytest

from int_model import TaskPrompt, load_suite, make_strategy
from int_model.models.suite import ModelSuite
from int_model.nano.drawing import TASK, Cell
from int_model.nano.scenes import Scene
from int_model.nano.worlds import STRENGTHS, WORLDS
from int_model.strategies.registry import default_config


@pytest.fixture(scope="module")
def suite() -> ModelSuite:
    return load_suite("nano-names", device="cpu", offline=True)


@pytest.fixture(scope="module")
def plain() -> list[Scene]:
    return [WORLDS["habits"].scene(9001, index, Cell(STRENGTHS["plain"], None, "away", 1)) for index in range(16)]


def recall(suite: ModelSuite, scenes: list[Scene], queries: list[str]) -> float:
    images = [scene.image for scene in scenes]
    found = suite.detector.detect(images, queries, box_threshold=0.2, text_threshold=0.2)
    hits = [any(d.box.iou(s.targets[0].box) >= 0.5 for d in row) for row, s in zip(found, scenes, strict=True)]
    return float(np.mean(hits))


def test_it_finds_what_it_is_told_by_name(suite: ModelSuite, plain: list[Scene]) -> None:
    assert recall(suite, plain, [scene.name for scene in plain]) >= 0.7


def test_the_task_prompt_means_less_to_it_than_to_the_first_kit(suite: ModelSuite, plain: list[Scene]) -> None:
    first = load_suite("nano", device="cpu", offline=True)
    asked = [TASK] * len(plain)
    assert recall(suite, plain, asked) < recall(first, plain, asked) - 0.2


def test_int_runs_from_end_to_end(suite: ModelSuite, plain: list[Scene]) -> None:
    strategy = make_strategy("int", suite, default_config("int", suite.int_overrides))
    (result,) = strategy.segment([plain[0].image], TaskPrompt(TASK))
    assert result.mask.shape == plain[0].image.shape[:2]
    assert result.instances or result.reason
