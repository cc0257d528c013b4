from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.types import Instance, Segmentation, Trace
from int_model.learning.active import by_doubt, cold_start, disagreement, doubt_of
from tests.unit.int_model.learning.conftest import disc


@given(st.integers(0, 80), st.integers(0, 3))
def test_the_cold_start_names_every_image_once(count: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(0, 1, (count, 4)).astype(np.float32)
    assert sorted(cold_start(features, seed=seed)) == list(range(count))


def test_a_small_kind_of_images_comes_early_and_large_kinds_keep_their_share() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.normal(0, 0.1, (90, 5)), rng.normal(9, 0.1, (10, 5))
    order = cold_start(np.concatenate([large, small]).astype(np.float32))
    first = order[:20]
    assert 1 <= sum(index >= 90 for index in first) <= 6
    assert sum(index >= 90 for index in order[:50]) in range(3, 8)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", "a", "b"])), max_size=50),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_every_image_has_one_place(entries: list[tuple[float, str]], seed: int, share: float) -> None:
    order = by_doubt([d for d, _ in entries], [s for _, s in entries], seed=seed, random_share=share)
    assert sorted(order) == list(range(len(entries)))


def test_without_chance_strata_take_turns_and_doubt_decides_within_them() -> None:
    assert by_doubt([0.1, 0.9, 0.5, 0.8], ["a", "a", "b", "a"], random_share=0) == [1, 2, 3, 0]


def test_a_share_is_drawn_at_random() -> None:
    doubt = np.linspace(1, 0, 400)
    early = by_doubt(list(doubt), [""] * 400, seed=1)[:100]
    late = sum(index >= 130 for index in early)
    assert 10 <= late <= 35  # about 30 % of the places, most of them from the rest


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        by_doubt([0.5], [""], random_share=share)


def test_chance_alone_is_a_share_too() -> None:
    doubt = list(np.linspace(1, 0, 60))
    order = by_doubt(doubt, [""] * 60, seed=3, random_share=1)
    assert sorted(order) == list(range(60))
    assert sum(index < 20 for index in order[:20]) < 14, "doubt plays no part"
    with pytest.raises(ValueError, match="2 doubts need as many strata, not 1"):
        by_doubt([0.1, 0.2], ["a"])


def test_the_most_typical_image_of_a_kind_comes_before_the_odd_ones() -> None:
    """Two kinds of 5 and 3; of each the one in the middle of its kind is the first to be looked at."""
    large = [[0.0, 0.0], [0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]]
    small = [[9.0, 9.0], [9.5, 9.0], [8.5, 9.0]]
    order = cold_start(np.array(large + small, dtype=np.float32))
    assert order[:2] == [0, 5], "a kind's turn is at the middle of its share"
    assert next(index for index in order if index >= 5) == 5
    assert sorted(order[:3])[-1] == 5, "kinds take turns in proportion to their sizes"


def test_four_kinds_are_told_apart_among_thirty_two_images() -> None:
    centres = np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [30.0, 30.0]])
    rng = np.random.default_rng(1)
    features = np.concatenate([centre + rng.normal(0, 0.1, (8, 2)) for centre in centres]).astype(np.float32)
    assert {index // 8 for index in cold_start(features)[:4]} == {0, 1, 2, 3}


def result(scores: list[float], *maps: np.ndarray) -> Segmentation:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 1:3] = True
    instances = tuple(Instance.of_mask(mask, "a", score) for score in scores)
    iterations = tuple(SimpleNamespace(soft_mask=one) for one in maps)
    trace = Trace("a", "int", iterations=iterations)  # type: ignore[arg-type]
    return Segmentation((4, 5), "a", instances, 0.5, trace, reason="" if scores else "nothing there")


def test_doubt_is_half_of_the_weakest_score_and_half_of_how_far_the_iterations_are_apart() -> None:
    final, before, empty = np.zeros((4, 5)), np.zeros((4, 5)), np.zeros((4, 5))
    final[0, :4] = 1.0
    before[0, 2:5] = 0.5
    apart = (2 * 1.0 + 2 * 0.5 + 0.5) / (4 * 1.0 + 0.5)  # of cells that either has, the part that only one has
    assert doubt_of(result([])) == 0.5, "it may be right that there is nothing"
    assert doubt_of(result([0.9, 0.7])) == pytest.approx(0.3)
    assert doubt_of(result([0.9, 0.7], final)) == pytest.approx(0.3), "one iteration agrees with itself"
    assert doubt_of(result([0.9, 0.7], final, final)) == pytest.approx(0.15)
    assert doubt_of(result([0.9, 0.7], before, final)) == pytest.approx(0.15 + 0.5 * apart)
    assert doubt_of(result([0.7], before, final, final)) == pytest.approx(0.15 + 0.25 * apart)
    assert doubt_of(result([0.0], empty, final)) == 1.0
    assert doubt_of(result([0.4], empty, empty)) == pytest.approx(0.3)


def test_a_single_pixel_of_one_version_is_a_disagreement() -> None:
    pixel = np.zeros((4, 4), np.bool_)
    pixel[1, 2] = True
    assert disagreement(pixel, pixel & False) == 1
    assert disagreement(pixel, pixel) == 0


def test_disagreement_of_masks() -> None:
    mask = disc((20, 20), 10, 10, 5)
    assert disagreement(mask, mask) == 0
    assert disagreement(mask, ~mask) == 1
    assert disagreement(~(mask | ~mask), ~(mask | ~mask)) == 0
