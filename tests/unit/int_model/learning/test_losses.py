"""The losses of learning against their definitions in NumPy and SciPy, one cell at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from int_model.learning.arms.pmm import (
    LEAST_AREA,
    MOST_AREA_CHANGE,
    crosses_itself,
    keeps_shape,
    matching_loss,
    signed_area,
)
from int_model.learning.losses import border_weights, dice_loss, mask_loss

SEEDS = st.integers(0, 2**32 - 1)


def made(seed: int, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, shares of cells that the truth covers, and where the image is: ``[count, 12, 15]`` each."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((count, 12, 15))
    for one in truth:
        one[rng.integers(0, 6) : rng.integers(6, 13), rng.integers(0, 7) : rng.integers(7, 16)] = 1
    truth = np.where(rng.random(truth.shape) < 0.1, rng.random(truth.shape), truth)
    inside = np.ones_like(truth)
    inside[:, int(rng.integers(6, 13)) :] = 0
    return rng.normal(0, 3, truth.shape), truth * inside, inside


def weights(truth: np.ndarray, weight: float, reach: int) -> np.ndarray:
    """Cells whose neighbourhood of that reach, as far as it lies in the grid, holds both object and ground."""
    binary = truth > 0.5
    square = np.ones((2 * reach + 1,) * 2)
    grown = ndimage.binary_dilation(binary, square)
    shrunk = ndimage.binary_erosion(binary, square, border_value=1)
    return np.where(grown & ~shrunk, weight, 1.0)


@given(SEEDS, st.sampled_from([(3.0, 2), (5.0, 1), (1.0, 3)]))
def test_the_outline_weighs_more(seed: int, how: tuple[float, int]) -> None:
    _, truth, _ = made(seed)
    got = border_weights(torch.from_numpy(truth), *how).numpy()
    np.testing.assert_array_equal(got, [weights(one, *how) for one in truth])


def test_by_default_the_outline_weighs_three_times_two_cells_wide() -> None:
    truth = torch.zeros(1, 9, 9)
    truth[:, :, 5:] = 1
    assert border_weights(truth)[0, 4].tolist() == [1, 1, 1, 3, 3, 3, 3, 1, 1]
    truth[:] = 0.5
    assert border_weights(truth).unique().tolist() == [1], "half a cell is ground"


@given(SEEDS)
def test_losses_are_those_of_the_definition(seed: int) -> None:
    logits, truth, inside = made(seed)
    share = 1 / (1 + np.exp(-logits))
    soft = share * inside
    dice = [
        1 - (2 * (s * t).sum() + 1) / (s.sum() + (t * i).sum() + 1) for s, t, i in zip(soft, truth, inside, strict=True)
    ]
    tensors = [torch.from_numpy(part) for part in (logits, truth, inside)]
    np.testing.assert_allclose(dice_loss(*tensors).numpy(), dice, rtol=1e-6)

    entropy = -(truth * np.log(share) + (1 - truth) * np.log(1 - share))
    where = np.array([weights(one, 3.0, 2) for one in truth]) * inside
    cross = (entropy * where).sum((1, 2)) / np.maximum(where.sum((1, 2)), 1)
    own = np.array([1.0, 0.25])
    expected = ((3 * cross + dice) * own).sum() / own.sum()
    assert float(mask_loss(*tensors, torch.from_numpy(own))) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_mask_costs_nothing_and_the_padding_never_counts() -> None:
    _, truth, inside = made(3)
    truth = (truth > 0.5) * inside
    sure = torch.from_numpy(60.0 * (2 * truth - 1))
    tensors = torch.from_numpy(truth), torch.from_numpy(inside)
    ones = torch.ones(len(truth))
    assert float(mask_loss(sure, *tensors, ones)) < 1e-6
    wrong = torch.where(tensors[1] > 0, sure, 60.0)
    assert float(mask_loss(wrong, *tensors, ones)) < 1e-6
    none = torch.zeros(1, 3, 3)
    assert torch.isfinite(mask_loss(none, none, none, torch.ones(1))), "an object wholly in the padding"


# ------------------------------------------------------------------ the outline's points


@given(SEEDS)
def test_matching_is_the_mean_of_both_directions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 20, (2, 11, 2))
    steps = [rng.uniform(0, 20, (2, 6, 2)) for _ in range(3)]

    def smooth(values: np.ndarray) -> float:
        away = np.abs(values)
        return float(np.where(away < 1, 0.5 * away**2, away - 0.5).mean())

    total = 0.0
    for step in steps:
        near = np.array([[t[np.argmin(((t - p) ** 2).sum(1))] for p in s] for s, t in zip(step, truth, strict=True)])
        back = np.array([[s[np.argmin(((s - p) ** 2).sum(1))] for p in t] for s, t in zip(step, truth, strict=True)])
        total += (smooth(step - near) + smooth(back - truth)) / 2
    got = matching_loss([torch.from_numpy(step) for step in steps], torch.from_numpy(truth))
    assert float(got) == pytest.approx(total / 3)


def crosses(ring: np.ndarray) -> bool:
    """Every pair of sides that share no corner, by the signs of four triangles."""

    def turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    sides = [(ring[i], ring[(i + 1) % len(ring)]) for i in range(len(ring))]
    return any(
        turn(*one, other[0]) * turn(*one, other[1]) < 0 and turn(*other, one[0]) * turn(*other, one[1]) < 0
        for i, one in enumerate(sides)
        for j, other in enumerate(sides)
        if j - i > 1 and not (i == 0 and j == len(sides) - 1)
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9))
def test_crossings_are_found_side_by_side(points: list[tuple[int, int]]) -> None:
    ring = np.array(points, dtype=np.float64)
    assert crosses_itself(ring) == crosses(ring)


def test_the_last_side_takes_part() -> None:
    assert crosses_itself(np.array([[0.0, 0], [10, 0], [5, 5], [5, -5]])), (
        "the side back to the start crosses the first"
    )
    assert not crosses_itself(np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]]))


SQUARE = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (SQUARE, True),
        (SQUARE * [1.3, 1], True),  # exactly as much as is allowed
        (SQUARE * [1.31, 1], False),
        (SQUARE * [0.7, 1], True),
        (SQUARE * [0.69, 1], False),
        (SQUARE[::-1], False),
        (SQUARE * 0, False),
        (np.full((4, 2), np.inf), False),
    ],
)
def test_what_a_ring_may_become(after: np.ndarray, kept: bool) -> None:
    assert MOST_AREA_CHANGE == 0.3
    with np.errstate(invalid="ignore"):
        assert keeps_shape(SQUARE, after) is kept
        assert keeps_shape(SQUARE[::-1], after[::-1]) is kept


def test_area_of_a_ring() -> None:
    assert (signed_area(SQUARE), signed_area(SQUARE[::-1])) == (100, -100)
    assert signed_area(SQUARE + np.array([7.0, -3.0])) == pytest.approx(100)
    assert LEAST_AREA == 64
