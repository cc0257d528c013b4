from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.config import EarlyStopConfig
from int_model.core.types import Mask
from int_model.strategies.negative_mining.final_choice import (
    closest_to_mean,
    has_settled,
    instance_score,
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
        ((0.5, 0.75), EarlyStopConfig(rule="gensam", patience=1, tolerance=0.25), False),  # below it, not at it
        ((0.5, 0.75), EarlyStopConfig(rule="gensam", patience=1, tolerance=0.26), True),
        ((0.5, 0.25), EarlyStopConfig(rule="gensam", patience=1, tolerance=0.26), True),
        ((0.5, 0.6, 0.601), EarlyStopConfig(rule="gensam"), False),  # both of them
        ((0.5, 0.501, 0.601), EarlyStopConfig(rule="gensam"), False),
    ],
)
def test_early_stop(levels: tuple[float, ...], config: EarlyStopConfig, expected: bool) -> None:
    assert has_settled(maps(*levels), config) is expected


def test_instance_score_is_a_geometric_mean() -> None:
    assert instance_score(0.9, 0.9, 0.9, 0.9) == pytest.approx(0.9)
    assert instance_score(1.0, 1.0, 1.0, 0.0) == 0
    assert instance_score(2.0, 1.0, 1.0, 1.0) == 1
    assert 0.5 < instance_score(0.4, 0.9, 1.0, 0.95) < 0.9
