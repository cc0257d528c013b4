from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.config import DetectorConfig, IntConfig, SamConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box
from int_model.models.calls import ModelCalls
from int_model.strategies.negative_mining.semantic_masks import (
    BoxQuery,
    cut_out,
    fallback_boxes,
    find_boxes,
    fuse,
    mask_prompts,
    masked,
    probabilities,
    reweight,
    select_masks,
    semantic_scores,
)
from int_model.strategies.registry import make_strategy
from tests.support.fakes import TASK, FakeDetector, fake_suite, scene

CONFIG = DetectorConfig()
TWO = [("frog", 30, 48, 14), ("frog", 95, 48, 14)]


@pytest.mark.parametrize(
    ("score", "name", "source", "boxes"),
    [(0.9, "frog", "detector", 2), (0.3, "frog", "detector_low", 2), (0.9, "beetle", "task_prompt", 2)],
)
def test_ladder_of_thresholds_and_names(score: float, name: str, source: str, boxes: int) -> None:
    image, _ = scene(objects=TWO)
    calls = ModelCalls(fake_suite(detector=FakeDetector(score=score)), 1)
    (found,) = find_boxes(calls, [BoxQuery(0, image, name)], TASK, CONFIG)
    assert found is not None
    assert (found.source, len(found.boxes)) == (source, boxes)


def test_ladder_asks_again_only_for_what_is_open() -> None:
    image, _ = scene(objects=TWO)
    detector = FakeDetector()
    calls = ModelCalls(fake_suite(detector=detector), 2)
    found = find_boxes(calls, [BoxQuery(0, image, "frog"), BoxQuery(1, image, "beetle")], "worm", CONFIG)
    assert found[1] is None
    assert [name for name, _, _ in detector.asked] == ["frog", "beetle", "beetle", "worm"]
    assert detector.asked[2][1:] == (0.25, 0.2)
    assert (calls.counts(0)["detect"], calls.counts(1)["detect"]) == (1, 3)


def test_last_rungs() -> None:
    box = Box(1, 2, 3, 4)
    assert (fallback_boxes(box, (10, 20)).source, fallback_boxes(box, (10, 20)).boxes[0].box) == ("vlm_box", box)
    assert fallback_boxes(None, (10, 20)).source == "whole_image"
    assert fallback_boxes(None, (10, 20)).boxes[0].box == Box.whole(10, 20)


POINTS = np.array([[5.0, 5.0], [25.0, 5.0], [10.5, 5.0], [18.0, 5.0]])
LABELS = np.array([1, 1, 0, 0], dtype=np.int64)
BOXES = [Box(0, 0, 10, 10), Box(20, 0, 30, 10)]


def test_points_go_to_the_box_that_they_belong_to() -> None:
    """Without this, the points of one animal are given with the box of another."""
    left, right = mask_prompts(BOXES, POINTS, LABELS, SamConfig())
    assert left.points.tolist() == [[5, 5], [10.5, 5]]
    assert left.labels.tolist() == [1, 0]
    assert right.points.tolist() == [[25, 5]]  # the negative at 18 lies outside the margin of 15 %


def test_points_of_all_and_of_none() -> None:
    assert [len(p.labels) for p in mask_prompts(BOXES, POINTS, LABELS, SamConfig(points="all"))] == [4, 4]
    assert [len(p.labels) for p in mask_prompts(BOXES, POINTS, LABELS, SamConfig(points="none"))] == [0, 0]


def test_no_points_is_no_crash() -> None:
    """Defect 11: no points and a box outside the block."""
    (prompt,) = mask_prompts(BOXES[:1], np.zeros((0, 2)), np.zeros(0, np.int64), SamConfig())
    assert (prompt.box, prompt.points.shape) == (BOXES[0], (0, 2))


def test_probability_is_above_half_exactly_where_the_logit_is_positive() -> None:
    logits = np.array([[-100.0, -0.001, 0.0, 0.001, 100.0]], np.float32)
    (soft,) = probabilities([logits])
    assert soft.dtype == np.float32
    assert (soft > 0.5).tolist() == [[False, False, False, True, True]]


def test_masked_region_is_black_outside() -> None:
    image = np.full((2, 2, 3), 9, np.uint8)
    assert masked(image, np.array([[True, False], [False, False]]))[..., 0].tolist() == [[9, 0], [0, 0]]


@pytest.mark.parametrize(
    ("cosines", "anchor", "expected"),
    [
        ([0.28, 0.27], 0.20, [1, 0.875]),
        ([0.28, 0.22], 0.20, [1, 0.25]),
        ([0.28, 0.18], 0.20, [1, 0]),
        ([0.28, 0.27], None, [1, 0]),
        ([0.10], 0.20, [1]),
        ([0.18, 0.19], 0.20, [1, 1]),
        ([0.2, 0.2], None, [1, 1]),
    ],
)
def test_semantic_scores(cosines: list[float], anchor: float | None, expected: list[float]) -> None:
    assert semantic_scores(np.array(cosines), anchor) == pytest.approx(np.array(expected), abs=1e-9)


def test_no_mask_is_privileged_and_scores_do_not_saturate() -> None:
    """Defect 8: mask 0 is always kept, and a softmax at scale 100 leaves all weights but one near zero."""
    scores = semantic_scores(np.array([0.21, 0.27, 0.28]), anchor=0.20)
    assert select_masks(scores, 0.7).tolist() == [False, True, True]
    assert scores[1] > 0.8
    assert select_masks(np.array([0.1, 0.4]), 0.7).tolist() == [False, True]  # the best one always stays


LEFT, RIGHT = np.zeros((4, 9), np.float32), np.zeros((4, 9), np.float32)
LEFT[:, :3], RIGHT[:, 6:] = 0.99, 0.95
KEEP = np.array([True, True])


@pytest.mark.parametrize("rule", ["max", "wsum"])
def test_two_instances_survive_fusion(rule: str) -> None:
    """A weighted sum gives disjoint instances only their own weights, and a threshold then deletes one."""
    soft, mask = fuse([LEFT, RIGHT], np.array([1.0, 0.75]), KEEP, (4, 9), rule)  # type: ignore[arg-type]
    assert mask[:, :3].all()
    assert mask[:, 6:].all()
    assert not mask[:, 3:6].any()
    assert (soft[mask] > 0.5).all()
    assert soft.dtype == np.float32


@given(
    arrays(np.float32, (3, 5, 6), elements=st.floats(0, 1, width=32)),
    arrays(np.float64, 3, elements=st.floats(0.01, 1)),
    arrays(np.bool_, 3),
    st.sampled_from(["max", "wsum"]),
)
def test_fusion_never_loses_a_selected_pixel(
    layers: np.ndarray, scores: np.ndarray, keep: np.ndarray, rule: str
) -> None:
    soft, mask = fuse(list(layers), scores, keep, (5, 6), rule)  # type: ignore[arg-type]
    assert np.array_equal(mask, (layers[keep] > 0.5).any(axis=0) if keep.any() else np.zeros((5, 6), bool))
    assert soft.min() >= 0
    assert soft.max() <= 1 + 1e-6


def test_weighted_sum_is_the_ancestors() -> None:
    overlap = np.full((2, 2), 0.8, np.float32)
    soft, _ = fuse([overlap, overlap * 0.5], np.array([1.0, 0.5]), KEEP, (2, 2), "wsum")
    assert soft == pytest.approx(np.ones((2, 2)))


@pytest.mark.parametrize(("rule", "background"), [("paper", 0.7**5), ("ema", 0.7)])
def test_reweighting_follows_the_chosen_equation(rule: str, background: float) -> None:
    """Defect 14: the paper's equation darkens the background on and on, the code's average does not."""
    image = np.full((4, 4, 3), 250, np.uint8)
    soft = np.zeros((4, 4), np.float32)
    soft[0] = 1.0
    current = image
    for _ in range(5):
        current = reweight(image, current, soft, 0.3, rule)  # type: ignore[arg-type]
    assert current.dtype == np.uint8
    assert (current[0] == 250).all()
    assert current[1:] == pytest.approx(250 * background, abs=3)


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 12), st.integers(1, 9))
def test_a_cut_out_is_the_masked_region_and_little_else(x: int, y: int, width: int, height: int) -> None:
    image = np.full((30, 44, 3), 200, dtype=np.uint8)
    mask = np.zeros((30, 44), dtype=np.bool_)
    mask[y : y + height, x : x + width] = True
    shown = cut_out(image, mask)
    assert (shown > 0).all(axis=2).sum() == mask.sum()
    assert shown.shape[0] <= 1.2 * height + 2
    assert shown.shape[1] <= 1.2 * width + 2
    with pytest.raises(ValueError, match="empty"):
        cut_out(image, np.zeros_like(mask))


@pytest.mark.parametrize(("view", "kept"), [("image", [True, False]), ("crop", [True, True])])
def test_the_smaller_of_two_equal_animals_is_dropped_unless_each_is_shown_alone(view: str, kept: list[bool]) -> None:
    """Eq. 11 shows CLIP a small instance as a few pixels on black, whose cosine with the name is then low."""
    image, _ = scene(objects=[("frog", 40, 48, 30), ("frog", 110, 48, 5)])
    config = IntConfig().merged({"clip": {"view": view}, "iterations": {"count": 1}})
    (result,) = make_strategy("int", fake_suite(), config).segment([image], TaskPrompt(TASK))
    (step,) = result.trace.iterations
    assert step.selected.tolist() == kept
