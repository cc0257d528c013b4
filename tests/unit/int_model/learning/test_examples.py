from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.learning.examples import HOLDOUT_FROM, Clicks, Example, Target, data_digest, folds
from tests.unit.int_model.learning.conftest import disc, drawn


def plain(number: int, group: str = "") -> Example:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[0, 0] = (number % 256, number // 256, 7)
    return Example(image, (Target("a", np.eye(8, dtype=np.bool_)),), group)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(0, 5))
def test_a_group_is_never_on_both_sides(groups: list[int], seed: int) -> None:
    examples = [plain(number, f"g{group}") for number, group in enumerate(groups)]
    if len(set(groups)) < 2:
        with pytest.raises(ValueError, match="at least two images"):
            folds(examples, seed=seed)
        return
    held_out: list[int] = []
    for train, held in folds(examples, seed=seed):
        assert not {examples[i].unit for i in train} & {examples[i].unit for i in held}
        assert sorted([*train, *held]) == list(range(len(examples)))
        assert train
        assert held
        held_out += held
    if len(set(groups)) < HOLDOUT_FROM:
        assert sorted(held_out) == list(range(len(examples)))


@given(st.integers(HOLDOUT_FROM, 120), st.integers(0, 3))
def test_from_25_images_one_fifth_is_held_out_and_stays_there(count: int, seed: int) -> None:
    examples = [plain(number) for number in range(count)]
    ((_, held),) = folds(examples, seed=seed)
    assert 5 <= len(held) <= 0.45 * count
    ((_, later),) = folds([*examples, *(plain(number) for number in range(count, count + 40))], seed=seed)
    if len(held) > 5:
        assert set(held) <= set(later)


def test_the_digest_ignores_the_order_and_notices_masks_labels_weights_and_clicks() -> None:
    a, b = drawn(1), drawn(2)
    digest = data_digest([a, b])
    assert data_digest([b, a]) == digest
    (target,) = a.targets
    changed = [
        Target("other", target.mask),
        Target("disc", ~target.mask),
        Target("disc", target.mask, 0.3),
        Target("disc", target.mask, 1.0, (Clicks(np.array([[3.0, 4.0]]), np.array([1])),)),
    ]
    assert len({digest, *(data_digest([Example(a.image, (one,)), b]) for one in changed)}) == 5


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Target("a", np.zeros((4, 4), dtype=np.bool_)), "at least one pixel"),
        (lambda: Target("a", np.ones((4, 4), dtype=np.uint8)), "bool"),
        (lambda: Target("a", np.ones((4, 4), dtype=np.bool_), 0.0), "above 0"),
        (lambda: Example(np.zeros((4, 5, 3), np.uint8), (Target("a", np.ones((4, 4), np.bool_)),)), "does not fit"),
        (lambda: Clicks(np.zeros((2, 2)), np.array([1])), "points of shape"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(make: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()  # type: ignore[operator]


def test_the_pixels_of_a_label_are_those_of_all_its_objects() -> None:
    size = (20, 30)
    first, second, other = disc(size, 5, 5, 3), disc(size, 20, 10, 4), disc(size, 10, 15, 3)
    targets = (Target("a", first), Target("a", second), Target("b", other))
    example = Example(np.zeros((*size, 3), dtype=np.uint8), targets)
    assert np.array_equal(example.mask_of("a"), first | second)
    assert example.labels == ("a", "b")
