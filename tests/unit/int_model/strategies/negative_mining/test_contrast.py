from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.core.prompt_options import PnmConfig
from int_model.core.types import Floats
from int_model.strategies.negative_mining.contrast import (
    Choice,
    Contrast,
    accumulate,
    among,
    contrast,
    evidence,
    leaders,
    normalised,
    settle,
    tally,
    vocabulary_change,
)

NAMES = ("snake", "crab", "seahorse")
UNIT = st.floats(0, 1, width=32)
TABLES = arrays(np.float64, (4, 3), elements=UNIT)
SCORES = st.integers(1, 6).flatmap(lambda i: arrays(np.float64, (i, 5), elements=st.floats(1e-3, 1)))


def test_contrast_is_the_largest_loss_of_probability_in_each_patch() -> None:
    p0 = np.array([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3]])
    p1 = np.array([[0.4, 0.3, 0.0], [0.5, 0.3, 0.1]])
    change = contrast(p0, p1, NAMES, ["snake", "snake"])
    assert change.values == pytest.approx([0.2, 0.2])
    assert change.names == ("snake", "seahorse")


@given(TABLES)
def test_no_contrast_when_nothing_was_removed(table: Floats) -> None:
    change = contrast(table, table.copy(), NAMES, ["crab", None, "snake", "crab"])
    assert (change.values == 0).all()
    assert change.names == ("crab", "snake", "snake", "crab")  # its own name; the first where it has none


@given(TABLES, TABLES, TABLES)
def test_contrast_depends_on_the_inpainted_patch(p0: Floats, p1: Floats, other: Floats) -> None:
    """Defect 1: the contrast branch never sees the inpainted image."""
    a, b = (contrast(p0, p, NAMES, [None] * 4).delta for p in (p1, other))
    assert np.array_equal(a, b) == np.array_equal(p0 - p1, p0 - other)


def test_a_name_backed_by_context_loses_to_the_true_one() -> None:
    """The context is still there when the object is gone, so only the true name's probability collapses."""
    p0, p1 = np.array([[0.8, 0.15, 0.05]]), np.array([[0.75, 0.0, 0.05]])
    assert contrast(p0, p1, NAMES, ["snake"]).names == ("crab",)


@given(arrays(np.float64, (3, 7), elements=st.floats(0.01, 1)), arrays(np.float64, (3, 7), elements=st.floats(0.01, 1)))
def test_vocabulary_change_is_in_the_unit_range(a: Floats, b: Floats) -> None:
    before, after = (x / x.sum(axis=1, keepdims=True) for x in (a, b))
    values = {}
    for reduce in ("first", "max", "mean"):
        old, new = vocabulary_change(before, after, reduce)  # type: ignore[arg-type]
        values[reduce] = old - new
        assert -1e-12 <= old - new <= 1
    assert values["max"] >= values["mean"] - 1e-12
    assert values["max"] >= values["first"] - 1e-12
    assert values["mean"] == pytest.approx((before - after).max(axis=1).mean())


def test_vocabulary_change_is_zero_for_the_same_image_and_needs_one_shape() -> None:
    rows = np.full((2, 4), 0.25, dtype=np.float32)
    assert vocabulary_change(rows, rows, "mean") == (0.25, 0.25)
    assert vocabulary_change(rows[:1], rows[:1], "mean") == (0.25, 0.25), "an answer of one token"
    with pytest.raises(ValueError, match="T > 0"):
        vocabulary_change(rows[:0], rows[:0], "mean")
    with pytest.raises(ValueError, match="one shape"):
        vocabulary_change(rows, rows[:1], "mean")


@given(SCORES)
def test_running_choice_is_the_argmax_of_the_product(rounds: Floats) -> None:
    running = None
    for values in rounds:
        running = accumulate(running, values, eps=1e-6)
    assert running is not None
    product = rounds.prod(axis=0)
    assert product[int(running.argmax())] == pytest.approx(product.max())


@given(SCORES)
def test_log_space_agrees_with_the_recursion_as_printed(rounds: Floats) -> None:
    """Eqs. 7 and 8 literally: D is multiplied with the last normalised D, then normalised."""
    running, printed = None, None
    for values in rounds:
        running = accumulate(running, values, eps=1e-6)
        multiplied = values if printed is None else values * printed
        printed = multiplied / multiplied.sum()
    assert running is not None
    assert printed is not None
    assert normalised(running) == pytest.approx(printed)
    assert normalised(running).sum() == pytest.approx(1)


def test_one_zero_does_not_end_a_patch() -> None:
    running = accumulate(accumulate(None, np.array([0.0, 1e-3]), 1e-3), np.array([0.9, 0.2]), 1e-3)
    assert np.isfinite(running).all()
    assert running.argmax() == 0


def test_names_found_later_start_at_the_lowest_score() -> None:
    first = accumulate(None, np.array([0.5, 0.1]), 1e-6)
    second = accumulate(first, np.array([1.0, 1.0, 1.0]), 1e-6)
    assert second == pytest.approx(np.log([0.5, 0.1, 0.1]))


CHANGE = Contrast(
    delta=np.array([[0.3, 0.1, 0.0], [0.2, 0.4, 0.0], [0.3, 0.0, 0.1]]),
    values=np.array([0.3, 0.4, 0.3]),
    names=("snake", "crab", "snake"),
)


def weigh(key: str, own: Sequence[str | None] = ("snake", "crab", "snake"), **rules: Any) -> Floats:
    return evidence(CHANGE, NAMES, own, PnmConfig(key=key, **rules))  # type: ignore[arg-type]


def test_evidence_per_patch_and_per_name() -> None:
    assert weigh("patch") == pytest.approx([0.3, 0.4, 0.3])
    assert weigh("name") == pytest.approx([0.3, 0.4, 0.1])
    assert weigh("name", name_reduce="mean") == pytest.approx([0.8 / 3, 0.5 / 3, 0.1 / 3])


def test_votes_decide_where_the_drops_are_noise() -> None:
    own = ["seahorse", "crab", "seahorse"]
    assert weigh("votes", own, noise=1.0) == pytest.approx([0, 1 / 3, 2 / 3])
    assert weigh("votes", own, noise=0.35) == pytest.approx([0, 0.4 / 3, 2 * 0.35 / 3])
    assert weigh("votes", own, noise=0.01) == pytest.approx([0, 0.4 / 3, 2 * 0.1 / 3])
    assert weigh("votes", [None, "crab", None], noise=0.01) == pytest.approx([0, 0.4 / 3, 0])


def test_a_patch_that_does_not_decide_has_not_changed() -> None:
    left = among(CHANGE, np.array([True, False, True]))
    assert left.values.tolist() == [0.3, 0, 0.3]
    assert (left.delta[1] == 0).all()
    assert np.array_equal(left.delta[[0, 2]], CHANGE.delta[[0, 2]])


def test_the_key_can_change_the_winner() -> None:
    by_patch = leaders(accumulate(None, weigh("patch"), 1e-6), CHANGE, NAMES, "patch")
    by_name = leaders(accumulate(None, weigh("name", name_reduce="mean"), 1e-6), CHANGE, NAMES, "name")
    assert by_patch == [Choice(1, "crab")]
    assert by_name == [Choice(0, "snake")]


def test_ties_are_reported_and_settled_by_votes() -> None:
    running = np.log([0.3, 0.3, 0.1])
    tied = leaders(running, CHANGE, NAMES, "patch")
    assert tied == [Choice(0, "snake"), Choice(1, "crab")]
    assert settle(tied, {"snake": 0.2, "crab": 0.5}) == Choice(1, "crab")
    assert settle(tied, {}) == Choice(0, "snake")


def test_a_majority_outvotes_and_similarity_decides_between_equals() -> None:
    similar = np.array([0.20, 0.21, 0.22, 0.20])
    votes = tally(["crab", "crab", "snake", None], similar)
    assert votes["crab"] > votes["snake"]
    votes = tally(["crab", "snake", None, None], similar)
    assert votes["snake"] > votes["crab"]
    assert tally([None], np.array([0.3])) == {}
