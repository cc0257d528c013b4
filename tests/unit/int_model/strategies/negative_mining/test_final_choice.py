from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.config import EarlyStopConfig
from int_model.core.types import Box, Instance, Mask
from int_model.strategies.negative_mining.final_choice import (
    closest_to_mean,
    distinct_masks,
    has_settled,
    instance_score,
    trusted,
)


def disc(radius: float, size: int = 48) -> Mask:
    yy, xx = np.mgrid[:size, :size] - size // 2
    return np.asarray(xx**2 + yy**2 <= radius**2)


MASKS = [disc(19.9), disc(18.1), disc(21.1), disc(8), disc(19.1)]


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m,
        lambda m: m.astype(np.uint8),
        lambda m: m.astype(np.uint8) * 255,
        lambda m: m.astype(np.int32),
        lambda m: m.astype(np.float16),
        lambda m: m.astype(np.float32),
        lambda m: m.astype(np.float64),
    ],
    ids=["bool", "uint8", "uint8 0/255", "int32", "float16", "float32", "float64"],
)
def test_final_choice_is_the_medoid_whatever_the_dtype(cast: object) -> None:
    """Defect 4: wrapped uint8 arithmetic makes "closest to the mean" the smallest mask."""
    areas = [int(mask.sum()) for mask in MASKS]
    stack = np.array(MASKS, dtype=np.float64)
    expected = int(((stack - stack.mean(axis=0)) ** 2).sum(axis=(1, 2)).argmin())
    index, distances = closest_to_mean([cast(mask) for mask in MASKS])  # type: ignore[operator]
    assert index == expected != int(np.argmin(areas))
    assert distances == pytest.approx(((stack - stack.mean(axis=0)) ** 2).mean(axis=(1, 2)), rel=1e-3)


@given(arrays(np.float32, (4, 3, 3), elements=st.floats(0, 1, width=32)))
def test_distance_is_the_squared_difference_to_the_mean(maps: np.ndarray) -> None:
    index, distances = closest_to_mean(list(maps))
    wide = maps.astype(np.float64)
    assert distances == pytest.approx(((wide - wide.mean(axis=0)) ** 2).mean(axis=(1, 2)))
    assert distances[index] == pytest.approx(distances.min(), abs=1e-9)


def test_ties_go_to_the_later_iteration() -> None:
    assert closest_to_mean([disc(5), disc(9)])[0] == 1
    assert closest_to_mean([disc(5)] * 3)[0] == 2
    with pytest.raises(ValueError, match="no mask"):
        closest_to_mean([])


def maps(*levels: float) -> list[np.ndarray]:
    return [np.full((4, 4), level, np.float32) for level in levels]


@pytest.mark.parametrize(
    ("levels", "config", "expected"),
    [
        ((0.5, 0.5, 0.5), EarlyStopConfig(), False),
        ((0.5, 0.501), EarlyStopConfig(rule="gensam"), False),
        ((0.5, 0.501, 0.502), EarlyStopConfig(rule="gensam"), True),
        ((0.9, 0.501, 0.502), EarlyStopConfig(rule="gensam"), False),
        ((0.1, 0.5, 0.501, 0.502), EarlyStopConfig(rule="gensam"), True),
        ((0.5, 0.501), EarlyStopConfig(rule="gensam", patience=1), True),
        ((0.5, 0.6), EarlyStopConfig(rule="gensam", patience=1), False),
        ((0.5,), EarlyStopConfig(rule="gensam", patience=1), False),
    ],
)
def test_early_stop(levels: tuple[float, ...], config: EarlyStopConfig, expected: bool) -> None:
    assert has_settled(maps(*levels), config) is expected


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


def test_instance_score_is_a_geometric_mean() -> None:
    assert instance_score(0.9, 0.9, 0.9, 0.9) == pytest.approx(0.9)
    assert instance_score(1.0, 1.0, 1.0, 0.0) == 0
    assert instance_score(2.0, 1.0, 1.0, 1.0) == 1
    assert 0.5 < instance_score(0.4, 0.9, 1.0, 0.95) < 0.9


def test_trusted_drops_and_weighs_by_area() -> None:
    big, small = (Instance.of_mask(box_mask(0, w), "frog", s) for w, s in ((30, 0.9), (10, 0.5)))
    assert trusted([big, small], 0.0)[1] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert trusted([big, small], 0.6) == ((big,), 0.9)
    assert trusted([small], 0.6) == ((), 0.5)
    assert trusted([], 0.6) == ((), 0.0)
    assert big.box == Box(0, 0, 30, 10)
