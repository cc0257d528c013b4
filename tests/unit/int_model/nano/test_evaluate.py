"""The evaluation's arithmetic, and the whole of it with fake models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from int_model.nano import evaluate
from int_model.nano.evaluate import bootstrap, held_out, mask_iou
from int_model.nano.world import TASKS


def test_bootstrap_against_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 120)
    mean, low, high = bootstrap(values.tolist())
    reference = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(reference.low, abs=0.004)
    assert high == pytest.approx(reference.high, abs=0.004)


def test_bootstrap_needs_values() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_bootstrap_interval_holds_the_mean(values: list[float]) -> None:
    mean, low, high = bootstrap(values, rounds=500)
    assert low - 1e-9 <= mean <= high + 1e-9 or np.ptp(values) > 0
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_mask_iou_table() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    half = full.copy()
    half[:2] = False
    assert mask_iou(empty, empty) == 1
    assert mask_iou(empty, full) == 0
    assert mask_iou(half, full) == 0.5
    assert mask_iou(half, ~half) == 0


def test_the_test_set_is_large_enough_and_holds_every_task() -> None:
    assert evaluate.SCENES >= 200
    assert {held_out(index).task for index in range(40)} == set(TASKS)
    again = evaluate.SceneGenerator("test", evaluate.TEST_SEED).scene(3)
    assert np.array_equal(held_out(3).image, again.image)
