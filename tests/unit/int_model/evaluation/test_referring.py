"""Figures of answers to expressions: by hand on small cases."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from int_model.evaluation.referring import Grounded, PairScore, difference, referring_table, score_pair


def answer(mask: np.ndarray | None, presence: float = 0.9) -> Grounded:
    points, labels = np.array([[1.0, 1.0], [7.0, 7.0], [0.0, 1.0], [7.9, 9.0]]), np.array([1, 1, 0, 0])
    return Grounded(mask, presence, points, labels)


def test_masks_and_points_are_compared_with_the_truth() -> None:
    truth = np.zeros((8, 8), dtype=np.bool_)
    truth[:4, :4] = True
    part = np.zeros_like(truth)
    part[:2, :4] = True
    score = score_pair("a", "name", answer(part), truth)
    assert (score.common, score.either, score.found, score.true) == (8, 16, 8, 16)
    assert (score.on_object, score.off_object) == (0.5, 0.5)  # one of each sign lies on the object
    more = Grounded(
        part, 0.9, np.array([[1.0, 1], [2, 2], [7, 7], [6, 6], [5, 5], [0, 1]]), np.array([1, 1, 1, 0, 0, 0])
    )
    found = score_pair("a", "name", more, truth)
    assert (found.on_object, found.off_object) == (2 / 3, 2 / 3), "two of three, each of its own sign"
    lost = score_pair("a", "name", dataclasses.replace(more, labels=np.array([1, 1, 0, 0, 0, 0])), truth)
    assert (lost.on_object, lost.off_object) == (1.0, 0.75)
    nothing = score_pair("a", "name", Grounded(None, 0.1), truth)
    assert (nothing.common, nothing.either, nothing.on_object) == (0, 16, None)
    assert not score_pair("a", "absent", answer(part), None).present


def scores() -> list[PairScore]:
    part = PairScore("a", "name", True, 0.9, 50, 100, 50, 100, 1.0, 1.0)
    whole = PairScore("b", "place", True, 0.8, 300, 300, 300, 300, 0.5, None)
    missed = PairScore("b", "name", True, 0.3, 0, 100, 0, 100, None, None)
    return [part, whole, missed, PairScore("a", "absent", False, 0.3), PairScore("b", "absent", False, 0.85)]


def test_the_table_by_hand() -> None:
    table = {name: figure.value for name, figure in referring_table(scores(), rounds=200).items()}
    assert table["mIoU"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert table["oIoU"] == pytest.approx(350 / 500)
    assert table["P@0.5"] == pytest.approx(1 / 3)  # exactly 0.5 is not above it
    assert table["positives on the object"] == pytest.approx(0.75)
    assert table["negatives beside it"] == pytest.approx(1.0)
    assert table["area found"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert table["area right"] == pytest.approx(1.0)  # over masks that exist
    assert table["not-present AUC"] == pytest.approx((2 + 1 + 0.5) / 6)


def test_intervals_hold_the_figure_and_images_are_the_unit() -> None:
    rng = np.random.default_rng(0)
    many = [
        PairScore(str(i // 2), "name", True, float(rng.random()), int(rng.integers(100)), 100, 100, 100)
        for i in range(80)
    ]
    figure = referring_table(many)["mIoU"]
    assert figure.low < figure.value < figure.high
    assert figure.images == 40
    assert referring_table(many)["oIoU"] == referring_table(many, rounds=2_000)["oIoU"]
    others = [dataclasses.replace(score, common=score.common // 2) for score in many]
    gap = difference(many, others)
    assert gap == difference(many, others, rounds=2_000)
    assert gap.value == pytest.approx(np.mean([score.common - score.common // 2 for score in many]) / 100)
    assert gap.high - gap.low < figure.high - figure.low, "paired: an image is drawn for both"


def test_figures_that_no_pair_defines_are_not_numbers() -> None:
    table = referring_table([PairScore("a", "name", True, 0.5, 1, 2, 1, 2)], rounds=10)
    assert np.isnan(table["negatives beside it"].value)
    assert np.isnan(table["not-present AUC"].value)


def test_methods_are_compared_on_the_same_pairs_only() -> None:
    assert difference(scores(), scores()).value == 0
    with pytest.raises(ValueError, match="different pairs"):
        difference(scores(), scores()[:3])
