from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.core.config import DetectorConfig
from int_model.core.types import Box, Detection, Instance, Mask
from int_model.masks.components import components
from int_model.masks.post_processing import (
    LEAST_VISIBLE,
    distinct_masks,
    same_objects,
    select_boxes,
    share_pixels,
    trusted,
)
from tests.unit.int_model.masks.shapes import blobs


def detection(x1: float, y1: float, x2: float, y2: float, score: float) -> Detection:
    return Detection(Box(x1, y1, x2, y2), score)


def test_boxes_are_suppressed_capped_and_sorted() -> None:
    found = [
        detection(0, 0, 10, 10, 0.5),
        detection(0, 0, 10, 9.5, 0.9),  # IoU 0.95 with the first
        detection(20, 0, 30, 10, 0.7),
        detection(0, 0, 100, 100, 0.95),  # the whole image
    ]
    kept = select_boxes(found, (100, 100), DetectorConfig())
    assert [d.score for d in kept] == [0.9, 0.7]
    assert len(select_boxes(found, (100, 100), DetectorConfig(max_boxes=1))) == 1
    assert select_boxes(found[3:], (100, 100), DetectorConfig()) == (found[3],)
    assert select_boxes([], (100, 100), DetectorConfig()) == ()


def test_borders_of_the_choice_of_boxes() -> None:
    """A box of exactly the largest area is no "whole image"; an IoU of exactly the limit is no repetition."""
    half, other = detection(0, 0, 10, 5, 0.9), detection(0, 5, 5, 10, 0.5)
    assert select_boxes([half, other], (10, 10), DetectorConfig(max_area=0.5)) == (half, other)
    assert select_boxes([half, other], (10, 10), DetectorConfig(max_area=0.49)) == (other,)
    for size in ((25, 4), (4, 25)):  # both sides of the image
        assert select_boxes([half, other], size, DetectorConfig(max_area=0.5)) == (half, other)
        assert select_boxes([half, other], (size[0] - 1, size[1]), DetectorConfig(max_area=0.5)) == (other,)
    inside = detection(0, 0, 10, 2.5, 0.7)
    assert half.box.iou(inside.box) == 0.5
    assert select_boxes([half, inside], (10, 10), DetectorConfig(nms_iou=0.5)) == (half, inside)
    assert select_boxes([half, inside], (10, 10), DetectorConfig(nms_iou=0.49)) == (half,)


def box_mask(x1: int, x2: int) -> Mask:
    mask = np.zeros((10, 40), bool)
    mask[:, x1:x2] = True
    return mask


@pytest.mark.parametrize(
    ("spans", "scores", "kept"),
    [
        ([(0, 10), (20, 30)], [0.5, 0.9], [1, 0]),
        ([(0, 10), (1, 11)], [0.5, 0.9], [1]),  # the same object twice
        ([(0, 10), (2, 5)], [0.9, 0.5], [0]),  # a part of a better mask
        ([(0, 10), (2, 5)], [0.5, 0.9], [0]),  # the whole replaces its part
        ([(0, 10), (20, 30), (0, 30)], [0.9, 0.8, 0.7], [0, 1]),  # a box around both
        ([(0, 10), (20, 30), (0, 10), (20, 30)], [0.9, 0.8, 0.7, 0.6], [0, 1]),
        ([(0, 10), (5, 5)], [0.5, 0.9], [0]),  # empty
        ([(0, 10), (8, 18)], [0.5, 0.9], [1, 0]),  # a slight overlap
        ([], [], []),
    ],
)
def test_instances_are_distinct(spans: list[tuple[int, int]], scores: list[float], kept: list[int]) -> None:
    assert distinct_masks([box_mask(*span) for span in spans], scores, 0.7, 0.9) == kept


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(0, 10), (5, 10)], [0]),  # the kept one covers it wholly
        ([(0, 8), (4, 12)], [0, 1]),  # IoU 1 / 3: exactly the limit
        ([(0, 10), (5, 15), (11, 20)], [0, 1, 2]),
        ([(0, 16), (8, 24)], [0, 1]),  # half covered, below the limit of cover
    ],
)
def test_borders_of_distinct_masks(spans: list[tuple[int, int]], kept: list[int]) -> None:
    assert distinct_masks([box_mask(*span) for span in spans], [0.9, 0.8, 0.7][: len(spans)], 1 / 3, 0.75) == kept


def test_a_mask_that_is_covered_to_exactly_the_limit_is_dropped_and_one_that_covers_so_much_replaces() -> None:
    left, right = box_mask(0, 20), box_mask(5, 25)  # three quarters in common
    assert distinct_masks([left, right], [0.9, 0.8], 0.99, 0.75) == [0]
    assert distinct_masks([left, right], [0.9, 0.8], 0.99, 0.76) == [0, 1]
    part, whole = box_mask(0, 8), box_mask(2, 30)  # covers three quarters of the part
    assert distinct_masks([part, whole], [0.9, 0.8], 0.99, 0.75) == [1]
    assert distinct_masks([part, whole], [0.9, 0.8], 0.99, 0.76) == [0, 1]
    one_pixel = np.zeros((10, 40), bool)
    one_pixel[0, 0] = True
    assert distinct_masks([one_pixel], [0.5], 0.7, 0.9) == [0]


def test_exactly_the_least_score_and_the_least_visible_share_suffice() -> None:
    instance = Instance.of_mask(box_mask(0, 10), "frog", 0.5)
    assert trusted([instance], 0.5) == ((instance,), 0.5)
    masks = [box_mask(0, 20), box_mask(0, 18)]  # a tenth of the first stays
    assert LEAST_VISIBLE == 0.1
    assert sorted(share_pixels(masks, [0.5, 0.9], ["a", "a"], [0, 0])) == [0, 1]
    assert list(share_pixels([np.zeros((3, 3), bool)], [0.5], ["a"], [0])) == []


def test_the_earlier_of_equals_is_the_better_one() -> None:
    visible = share_pixels([box_mask(0, 10), box_mask(5, 15)], [0.5, 0.5], ["a", "a"], [0, 0])
    assert list(visible) == [0, 1]
    np.testing.assert_array_equal(visible[1], box_mask(10, 15))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.floats(0, 1)), max_size=6))
def test_distinct_masks_never_repeat_each_other(spans: list[tuple[int, int, float]]) -> None:
    masks = [box_mask(x, x + w) for x, w, _ in spans]
    kept = distinct_masks(masks, [s for _, _, s in spans], 0.7, 0.9)
    assert len(kept) == len(set(kept))
    for i in kept:
        for j in kept:
            if i < j:
                shared, total = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
                assert shared <= 0.7 * total


def test_trusted_drops_and_weighs_by_area() -> None:
    big, small = (Instance.of_mask(box_mask(0, w), "frog", s) for w, s in ((30, 0.9), (10, 0.5)))
    assert trusted([big, small], 0.0)[1] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert trusted([big, small], 0.6) == ((big,), 0.9)
    assert trusted([small], 0.6) == ((), 0.5)
    assert trusted([], 0.6) == ((), 0.0)
    assert big.box == Box(0, 0, 30, 10)


# --- shared pixels ----------------------------------------------------------------------------------------------------

objects = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 25), st.integers(0, 4)), min_size=1, max_size=6)


@given(objects)
def test_a_pixel_belongs_to_the_best_object_that_claims_it(spans: list[tuple[int, int, int]]) -> None:
    masks, scores = [box_mask(x, x + w) for x, w, _ in spans], [s / 4 for _, _, s in spans]
    visible = share_pixels(masks, scores, ["frog"] * len(masks), [0] * len(masks))
    owners = np.sum([*visible.values()], axis=0)
    assert owners.max() == 1
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    assert list(visible) == [i for i in order if i in visible]
    assert order[0] in visible
    for index, mask in visible.items():
        assert not (mask & ~masks[index]).any()
        assert mask.sum() >= LEAST_VISIBLE * masks[index].sum()
        better = [masks[i] for i in order[: order.index(index)] if i in visible]
        assert not any((mask & other & visible_of).any() for other, visible_of in zip(better, better, strict=True))
    hidden = [masks[i].sum() for i in range(len(masks)) if i not in visible]
    lost = np.logical_or.reduce(masks) & ~np.logical_or.reduce([*visible.values()])
    assert lost.sum() <= LEAST_VISIBLE * (sum(hidden) + sum(masks[i].sum() for i in visible))


def test_answers_of_two_runs_to_one_question_do_not_compete() -> None:
    masks = [box_mask(0, 20), box_mask(10, 30), box_mask(15, 40)]
    visible = share_pixels(masks, [0.9, 0.8, 0.7], ["frog", "frog", "owl"], ["int", "sam3", "int"])
    np.testing.assert_array_equal(visible[0], masks[0])
    np.testing.assert_array_equal(visible[1], masks[1])
    np.testing.assert_array_equal(visible[2], box_mask(30, 40))


def test_what_is_left_of_an_object_has_no_small_parts() -> None:
    """The lower object is cut in two unequal parts: the smaller one is a remainder, not an object."""
    visible = share_pixels([box_mask(0, 34), box_mask(2, 12)], [0.5, 0.9], ["a", "a"], [0, 0])
    np.testing.assert_array_equal(visible[0], box_mask(12, 34))
    np.testing.assert_array_equal(visible[1], box_mask(2, 12))


def test_an_object_that_loses_nothing_keeps_its_small_parts() -> None:
    mask = box_mask(0, 30) | box_mask(39, 40)
    assert share_pixels([mask], [0.5], ["a"], [0])[0] is mask


def test_an_object_that_is_hidden_is_missing() -> None:
    assert list(share_pixels([box_mask(0, 20), box_mask(0, 19)], [0.5, 0.9], ["a", "a"], [0, 0])) == [1]
    assert share_pixels([], [], [], []) == {}


@settings(deadline=None)
@given(blobs(), st.integers(1, 8))
def test_parts_left_are_never_below_their_share(mask: Mask, shift: int) -> None:
    better = np.roll(mask, shift, axis=1)
    visible = share_pixels([mask, better], [0.5, 0.9], ["a", "a"], [0, 0])
    if 0 in visible and (visible[0] != mask).any():
        parts = [part.area for part in components(visible[0])]
        assert all(area >= LEAST_VISIBLE * sum(parts) for area in parts)


# --- one object, found twice or in pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "groups"),
    [
        ([(0, 10), (20, 30)], [[0], [1]]),
        ([(0, 10), (2, 5)], [[0, 1]]),  # a speck inside
        ([(2, 5), (0, 10)], [[1, 0]]),
        ([(0, 10), (1, 11)], [[0, 1]]),  # the same object twice
        ([(0, 20), (12, 22)], [[0, 1]]),  # nearly all of it lies in the other
        ([(0, 20), (13, 23)], [[0], [1]]),  # two that overlap
        ([(0, 40), (2, 5), (30, 33)], [[0, 1, 2]]),  # specks that fill little of it
        ([(0, 40), (0, 18), (20, 38)], [[0], [1], [2]]),  # a group of two objects is no object
        ([(0, 40), (0, 30), (2, 28)], [[0, 1, 2]]),  # doubles of one piece are no group
        ([(0, 10), (5, 5)], [[0], [1]]),  # empty
        ([], []),
    ],
)
def test_masks_of_one_object_are_told(spans: list[tuple[int, int]], groups: list[list[int]]) -> None:
    found = same_objects([box_mask(*span) for span in spans], ["one run"] * len(spans))
    assert sorted(found) == sorted(groups)


def test_masks_of_different_runs_stay_apart() -> None:
    assert same_objects([box_mask(0, 10), box_mask(2, 5)], ["frogs", "fish"]) == [[0], [1]]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=7))
def test_every_mask_is_in_one_group_that_its_largest_leads(spans: list[tuple[int, int]]) -> None:
    masks = [box_mask(x, x + w) for x, w in spans]
    groups = same_objects(masks, [0] * len(masks))
    assert sorted(i for group in groups for i in group) == list(range(len(masks)))
    assert all(masks[group[0]].sum() >= masks[i].sum() for group in groups for i in group)
