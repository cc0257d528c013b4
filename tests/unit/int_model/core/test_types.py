from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.task_prompt import TaskPrompt, inpaint_negative, inpaint_positive
from int_model.core.types import (
    Box,
    Candidate,
    Detection,
    Instance,
    Mask,
    Patch,
    Segmentation,
    Trace,
    check_image,
    union,
)

NUMBERS = st.integers(-20, 20).map(float)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1, w, h = draw(NUMBERS), draw(NUMBERS), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return Box(x1, y1, x1 + w, y1 + h)


@given(boxes(), boxes())
def test_box_intersection_agrees_with_pixels(a: Box, b: Box) -> None:
    one, other = (box.shift(20, 20).to_mask(80, 80) for box in (a, b))
    common = a.intersect(b)
    assert (0 if common is None else common.area) == (one & other).sum()
    assert a.iou(b) == pytest.approx((one & other).sum() / (one | other).sum())
    assert a.iou(b) == b.iou(a)


@pytest.mark.parametrize("values", [(1, 1, 1, 2), (2, 1, 1, 2), (0, 0, math.nan, 1), (0, 0, math.inf, 1)])
def test_boxes_are_checked(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="box"):
        Box(*values)


@given(arrays(np.bool_, (7, 9)))
def test_box_of_a_mask_is_tight(mask: Mask) -> None:
    box = Box.of_mask(mask)
    if box is None:
        assert not mask.any()
        return
    inside = box.to_mask(7, 9)
    assert mask[~inside].sum() == 0
    assert mask[inside].any()
    assert mask.any(axis=1)[int(box.y1)]
    assert mask.any(axis=0)[int(box.x2) - 1]


@given(boxes())
def test_patch_and_image_coordinates_come_back(box: Box) -> None:
    patch = Patch(0, 4, Box(5, 3, 30, 28))
    inside = patch.from_image(box)
    assume(inside is not None)
    assert inside is not None
    assert patch.to_image(inside) == box.intersect(patch.box)
    assert inside.clip(*patch.size) == inside


def test_patches_crop_and_are_checked() -> None:
    array = np.arange(24).reshape(4, 6)
    assert Patch(0, 2, Box(1, 2, 3, 4)).crop(array).tolist() == [[13, 14], [19, 20]]
    with pytest.raises(ValueError, match="whole, non-negative"):
        Patch(0, 1, Box(0.5, 0, 2, 2))


@pytest.mark.parametrize("bad", [None, [[1]], np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_images_are_checked(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 array of shape \[H, W, 3\]"):
        check_image(bad)


def test_results_are_checked() -> None:
    mask = np.ones((2, 3), bool)
    instance = Instance.of_mask(mask, "frog", 0.5)
    assert (instance.area, instance.box) == (6, Box(0, 0, 3, 2))
    trace = Trace(task="frog", strategy="int")
    assert Segmentation((2, 3), "frog", (instance,), 0.5, trace).mask.all()
    with pytest.raises(ValueError, match="does not fit"):
        Segmentation((3, 3), "frog", (instance,), 0.5, trace)
    with pytest.raises(ValueError, match="states its reason"):
        Segmentation((2, 3), "frog", (), 0.5, trace)
    with pytest.raises(ValueError, match="at least one pixel"):
        Instance.of_mask(~mask, "frog", 0.5)
    with pytest.raises(ValueError, match="score"):
        Instance.of_mask(mask, "frog", 1.5)
    with pytest.raises(ValueError, match="score"):
        Detection(instance.box, -0.1)
    with pytest.raises(ValueError, match="has a name"):
        Candidate(0, " ", "leaf")
    assert not union((2, 3), []).any()


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0, -1e-9, 1.0 + 1e-9, 1.5, math.nan])
def test_scores_lie_between_0_and_1_both_included(score: float) -> None:
    mask, trace = np.ones((2, 3), bool), Trace(task="frog", strategy="int")
    for make in (
        lambda: Detection(Box(0, 0, 1, 1), score),
        lambda: Instance.of_mask(mask, "frog", score),
        lambda: Segmentation((2, 3), "frog", (), score, trace, reason="none"),
    ):
        if 0.0 <= score <= 1.0:
            assert make().score == score
        else:
            with pytest.raises(ValueError, match=r"score lies in \[0, 1\]"):
                make()


def test_a_box_is_moved_scaled_and_grown() -> None:
    box = Box(2, 3, 6, 11)
    assert (box.width, box.height, box.area) == (4, 8, 32)
    assert box.shift(10, -2) == Box(12, 1, 16, 9)
    assert box.scale(2, 0.5) == Box(4, 1.5, 12, 5.5)
    assert box.enlarge(0.5) == Box(0, -1, 8, 15)
    assert box.enlarge(-0.25) == Box(3, 5, 5, 9)
    assert Box.whole(5, 7) == Box(0, 0, 7, 5)
    assert box.clip(5, 7) == Box(2, 3, 6, 5)
    assert box.clip(3, 7) is None, "it begins where the image ends"


@pytest.mark.parametrize(("x", "y", "inside"), [(2, 3, True), (6, 3, False), (2, 11, False), (5.9, 10.9, True),
                                                 (1.9, 5, False), (4, 2.9, False)])  # fmt: skip
def test_a_box_is_half_open(x: float, y: float, inside: bool) -> None:
    assert Box(2, 3, 6, 11).contains(x, y) is inside


def test_a_box_covers_every_pixel_that_it_touches() -> None:
    assert np.argwhere(Box(0.9, 1.1, 2.1, 1.2).to_mask(3, 4)).tolist() == [[1, 0], [1, 1], [1, 2]]
    assert np.argwhere(Box(-3, -2, 1, 1).to_mask(3, 4)).tolist() == [[0, 0]]
    assert not Box(-3, -3, -1, -1).to_mask(3, 4).any()
    assert Box(-3, -3, 9, 9).to_mask(3, 4).all()


def test_a_patch_starts_at_the_corner_at_the_earliest() -> None:
    assert Patch(0, 1, Box(0, 0, 4, 3)).size == (3, 4)
    with pytest.raises(ValueError, match="whole, non-negative"):
        Patch(0, 1, Box(-1, 0, 4, 3))


@pytest.mark.parametrize("shape", [(1, 1, 3), (0, 4, 3), (4, 0, 3)])
def test_an_image_has_a_pixel(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        with pytest.raises(ValueError, match="at least one pixel"):
            check_image(np.zeros(shape, np.uint8))
    else:
        check_image(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="uint8 array"):
        check_image(np.zeros(shape))  # type: ignore[arg-type]


def test_the_whole_mask_and_the_masks_of_instances_have_the_right_make() -> None:
    mask, trace = np.eye(3, dtype=bool), Trace(task="frog", strategy="int")
    one, other = (
        Instance.of_mask(part, "frog", 0.5) for part in (mask & (np.arange(3) < 1), mask & (np.arange(3) > 1))
    )
    both = Segmentation((3, 3), "frog", (one, other), 0.5, trace)
    assert np.argwhere(both.mask).tolist() == [[0, 0], [2, 2]]
    assert Segmentation((3, 3), "frog", (one,), 0.5, trace, whole=mask).mask is mask
    for whole in (mask.astype(np.uint8), mask[:2]):
        with pytest.raises(ValueError, match="the whole mask is bool"):
            Segmentation((3, 3), "frog", (one,), 0.5, trace, whole=whole)
    for bad in (mask.astype(np.uint8), mask[None]):
        with pytest.raises(ValueError, match="an instance's mask is bool"):
            Instance(bad, "frog", 0.5, one.box)
    with pytest.raises(ValueError, match="at least one pixel"):
        Instance(mask & False, "frog", 0.5, one.box)


@pytest.mark.parametrize(
    ("text", "kept"), [("polyp", "polyp"), ("x" * 200, "x" * 200), ("  skin \n lesion. ", "skin lesion")]
)
def test_task_prompt_is_tidied(text: str, kept: str) -> None:
    assert TaskPrompt(text).text == kept


@pytest.mark.parametrize("text", ["", "  ", ".", "x" * 201])
def test_task_prompt_is_checked(text: str) -> None:
    with pytest.raises(ValueError, match="task prompt"):
        TaskPrompt(text)


def test_questions() -> None:
    task = TaskPrompt("polyp")
    assert len(task.dialogue) == 4
    assert all("polyp" in question for question in task.dialogue)
    plain = task.score_question(["frog", "toad"])
    assert plain == "The potential polyp names are: frog, toad. Name of the polyp in one word."
    assert task.score_question(["frog", "toad"], "A frog.") == f"A frog. {plain}"
    assert inpaint_positive("moss") == "moss, high quality, detailed, blended to the original image."
    assert inpaint_negative("frog", task) == "frog, is a polyp"
