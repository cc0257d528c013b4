from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.types import Instance
from int_model.learning.adaptation import Adaptation, Calibration, Outline, signed_distance
from int_model.learning.calibration import (
    expected_calibration_error,
    fit_calibration,
    matched_ious,
    reliability,
)
from tests.unit.int_model.learning.conftest import disc


def logits_of(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.float32(3), np.float32(-3))


def test_the_identity_returns_the_very_same_array() -> None:
    logits = logits_of(disc((40, 40), 20, 20, 9))
    assert Outline().apply(logits) is logits
    assert Adaptation().decodes_as_base("anything")


@given(st.floats(-0.16, 0.2), st.floats(8, 25))
def test_an_offset_moves_the_outline_of_a_disc_by_that_share_of_its_diameter(offset: float, radius: float) -> None:
    mask = disc((96, 96), 48, 48, radius)
    moved = Outline(offset=offset).apply(logits_of(mask)) > 0
    wanted = radius * (1 + 2 * offset)
    assert abs(np.sqrt(moved.sum() / np.pi) - wanted) < 0.75


def test_a_threshold_decides_which_pixels_belong() -> None:
    logits = np.array([[-1.0, 0.5, 2.0]], dtype=np.float32)
    assert (Outline(threshold=1.0).apply(logits) > 0).tolist() == [[False, False, True]]
    assert (Outline(threshold=-2.0).apply(logits) > 0).all()


@pytest.mark.parametrize("fill", [False, True])
def test_offsets_leave_empty_and_full_masks_alone(fill: bool) -> None:
    logits = logits_of(np.full((5, 7), fill))
    assert np.array_equal(Outline(offset=0.1).apply(logits), logits)


def test_signed_distance_is_positive_inside_only() -> None:
    mask = disc((30, 30), 14, 15, 8)
    assert np.array_equal(signed_distance(mask) > 0, mask)


@pytest.mark.parametrize("bad", [{"slot": 4}, {"slot": -1}, {"offset": 0.7}])
def test_impossible_outlines_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        Outline(**bad)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=20, max_size=80))
def test_a_calibration_never_turns_the_order_of_scores_around(pairs: list[tuple[float, float]]) -> None:
    calibration = fit_calibration([score for score, _ in pairs], [iou for _, iou in pairs])
    assert calibration is not None
    values = [calibration(score) for score in np.linspace(0, 1, 50)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(values))
    assert 0 <= min(values) <= max(values) <= 1


def test_calibration_brings_scores_to_what_they_turned_out_to_be() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1.0, 400)
    ious = np.clip(2 * scores - 1.1 + rng.normal(0, 0.05, 400), 0, 1)  # too sure of itself
    calibration = fit_calibration(scores, ious)
    assert calibration is not None
    before = expected_calibration_error(scores, ious)
    after = expected_calibration_error([calibration(score) for score in scores], ious)
    assert after < 0.02 < before


def test_few_predictions_make_no_calibration() -> None:
    assert fit_calibration([0.5] * 19, [0.4] * 19) is None
    assert fit_calibration([0.5] * 20, [0.4] * 20) is not None


def test_bins_of_scores_are_tenths_and_both_ends_belong_to_one() -> None:
    scores, ious = [0.0, 0.05, 0.1, 0.61, 0.69, 0.99, 1.0], [0.2, 0.0, 0.5, 0.4, 0.6, 0.9, 0.7]
    table = reliability(scores, ious)
    assert [count for _, _, count in table] == [2, 1, 2, 2]
    assert [score for score, _, _ in table] == pytest.approx([0.025, 0.1, 0.65, 0.995])
    assert [iou for _, iou, _ in table] == pytest.approx([0.1, 0.5, 0.5, 0.8])
    assert len(reliability(scores, ious, bins=1)) == 1
    expected = (2 * 0.075 + 1 * 0.4 + 2 * 0.15 + 2 * 0.195) / 7
    assert expected_calibration_error(scores, ious) == pytest.approx(expected)
    assert (reliability([], []), expected_calibration_error([], [])) == ([], 0.0)


def test_a_calibration_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="rising order"):
        Calibration(np.array([0.1, 0.9]), np.array([0.9, 0.1]))


def test_a_prediction_is_matched_with_the_object_it_fits_best_and_with_none_where_there_is_none() -> None:
    size = (40, 60)
    left, right = disc(size, 15, 20, 10), disc(size, 45, 20, 10)
    found = [Instance.of_mask(left, "a", 0.9), Instance.of_mask(disc(size, 30, 35, 4), "a", 0.4)]
    (first, second) = matched_ious(found, [right, left])
    assert first == (0.9, 1.0)
    assert second == (0.4, 0.0)
    assert matched_ious(found, [])[0] == (0.9, 0.0)


def test_the_reliability_diagram_holds_every_prediction() -> None:
    table = reliability([0.05, 0.06, 0.95, 1.0], [0.0, 0.2, 0.9, 1.0])
    assert [count for _, _, count in table] == [2, 2]
    assert table[0][1] == pytest.approx(0.1)
