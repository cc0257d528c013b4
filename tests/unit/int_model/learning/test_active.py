from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.learning.active import by_doubt, cold_start, disagreement
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


def test_disagreement_of_masks() -> None:
    mask = disc((20, 20), 10, 10, 5)
    assert disagreement(mask, mask) == 0
    assert disagreement(mask, ~mask) == 1
    assert disagreement(~(mask | ~mask), ~(mask | ~mask)) == 0
