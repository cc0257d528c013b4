"""Intervals and paired differences: seeded, against scipy, and where figures are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from int_model.evaluation.instances import average_precision, pooled_f1
from int_model.evaluation.metrics import METRICS, Metric
from int_model.evaluation.records import THRESHOLDS, Detections, Record
from int_model.evaluation.result import Evaluation, Setting, VariantInfo, conclude
from int_model.evaluation.statistics import draw, interval, mean_interval, sample


def record(example: int, variant: str, iou: float | None = 0.5, seed: int = 0, **more: object) -> Record:
    metrics = {"iou": iou, "mae": None if iou is None else 1 - iou}
    return Record(f"e{example}", "polyp", "", variant, seed, metrics=metrics, **more)  # type: ignore[arg-type]


def concluded(records: list[Record], *variants: str, rounds: int = 1000) -> Evaluation:
    setting = Setting("2026", "1", "nano", "cpu", {"0": "f"}, "native", (0,), rounds)
    return conclude(setting, [VariantInfo(name, "int") for name in variants], records)


def test_the_interval_of_a_mean_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).beta(4, 2, 60)
    found = concluded([record(i, "a", v) for i, v in enumerate(values)], "a", rounds=20_000).summary()[0]["iou"]
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)
    assert found.images == 60


def test_a_paired_difference_is_narrower_than_the_figures_own_intervals() -> None:
    rng = np.random.default_rng(1)
    hard = rng.uniform(0.1, 0.8, 50)
    gain = rng.normal(0.05, 0.02, 50)
    records = [record(i, "a", h) for i, h in enumerate(hard)] + [record(i, "b", h) for i, h in enumerate(hard + gain)]
    outcome = concluded(records, "a", "b")
    gap = outcome.difference("b", "a", "iou")
    assert gap.interval.value == pytest.approx(gain.mean())
    assert gap.interval.low > 0
    assert gap.verdict == "better"
    assert outcome.difference("b", "a", "mae").verdict == "better"  # lower
    turned = outcome.difference("a", "b", "iou")
    assert turned.verdict == "worse"
    assert turned.interval.high == -gap.interval.low
    own = outcome.summary()[0]["iou"]
    assert (gap.interval.high - gap.interval.low) < 0.2 * (own.high - own.low)
    assert conclude(outcome.setting, outcome.variants, records) == outcome  # seeded


def test_equal_variants_differ_by_exactly_nothing() -> None:
    records = [record(i, v, 0.1 * i) for v in "ab" for i in range(8)]
    gap = concluded(records, "a", "b").difference("b", "a", "iou")
    assert (gap.interval.value, gap.interval.low, gap.interval.high) == (0, 0, 0)
    assert gap.verdict == "unclear"


def test_failures_are_counted_and_pairs_are_made_of_what_both_did() -> None:
    records = [record(0, "a", 0.2), record(1, "a", 0.4), record(2, "a", 1.0)]
    records += [record(0, "b", 0.3), record(1, "b", 0.5), record(2, "b", None, error="it broke")]
    outcome = concluded(records, "a", "b")
    a, b = outcome.summary()
    assert (a.images, a.failed, b.images, b.failed) == (3, 0, 2, 1)
    gap = outcome.difference("b", "a", "iou").interval
    assert gap.value == pytest.approx(0.1)
    assert gap.images == 2
    assert [r.example for r in outcome.failures()] == ["e2"]


def test_few_images_never_prove_anything() -> None:
    for count, verdict in ((1, "unclear"), (5, "unclear"), (6, "better")):
        records = [record(i, v, 0.9 if v == "b" else 0.1) for v in "ab" for i in range(count)]
        gap = concluded(records, "a", "b").difference("b", "a", "iou")
        assert gap.verdict == verdict, count
        assert math.isfinite(gap.interval.low) == (count > 1)


def test_seeds_of_an_image_are_drawn_together() -> None:
    records = [record(i, "a", v, seed) for i, v in enumerate((0.0, 1.0)) for seed in range(20)]
    found = concluded(records, "a").summary()[0]["iou"]
    assert found.images == 2
    assert (found.low, found.high) == (0.0, 1.0)  # as two images allow; forty independent values would not


def test_the_best_threshold_is_sought_for_the_whole_set() -> None:
    curves = np.zeros((2, 256))
    curves[0, 10], curves[1, 200] = 1.0, 1.0
    records = [record(i, "a", curves={"f_max_b03": curves[i]}) for i in range(2)]
    columns, counts = draw(["e0", "e1"], 50)
    found = sample(METRICS["f_max_b03"], records, columns, counts)
    assert found is not None
    assert found.value == 0.5  # the mean of both images' own maxima would be 1


def test_slices_are_made_of_tasks_and_groups() -> None:
    def of(example: str, task: str, group: str, iou: float) -> Record:
        return Record(example, task, group, "a", 0, metrics={"iou": iou})

    records = [of("1", "polyp", "g1", 0.2), of("2", "lesion", "g1", 0.4), of("3", "lesion", "g2", 0.6)]
    outcome = concluded(records, "a")
    assert outcome.slices() == ("all", "task: polyp", "task: lesion", "group: g1", "group: g2")
    assert outcome.summary("task: lesion")[0]["iou"].value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="there is no slice 'x'; choose one of: all, task: polyp"):
        outcome.summary("x")


def test_many_variants_are_compared_with_the_first_only() -> None:
    names = [f"v{i}" for i in range(8)]
    outcome = concluded([record(i, name, 0.1 * i) for name in names for i in range(3)], *names)
    assert {gap.baseline for gap in outcome.differences} == {"v0"}
    with pytest.raises(ValueError, match="each is compared with the first one only"):
        outcome.difference("v2", "v1", "iou")


def test_figures_that_nobody_has_are_left_out() -> None:
    summary = concluded([record(0, "a")], "a").summary()[0]
    assert set(summary.figures) == {"iou", "mae"}
    with pytest.raises(ValueError, match="at least one image"):
        draw([], 10)


def test_the_mean_of_trials_is_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 120)
    found = mean_interval(values.tolist(), 10_000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert (found.value, found.images) == (pytest.approx(values.mean()), 120)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([], 10)


def objects(scores: tuple[float, ...], hits: tuple[bool, ...], truths: int) -> Detections:
    """The hits hold up to an IoU of .70."""
    none = (False,) * len(hits)
    return Detections(scores, tuple(hits if threshold <= 0.7 else none for threshold in THRESHOLDS), truths)


@pytest.mark.parametrize("name", ["ap", "ap_50", "ap_75", "instance_f1_50", "instance_f1_75"])
def test_figures_of_objects_are_pooled_over_the_images_that_are_drawn(name: str) -> None:
    images = [objects((0.9, 0.4), (True, False), 2), objects((0.8,), (False,), 1), objects((0.7,), (True,), 1)]
    records = [record(i, "a", detections=one) for i, one in enumerate(images)] + [record(3, "a")]
    columns, counts = draw([f"e{i}" for i in range(4)], 600)
    told = sample(METRICS[name], records, columns, counts)
    assert told is not None
    assert told.images == {"e0", "e1", "e2"}, "one image has no objects to compare"
    threshold, once = METRICS[name].threshold, np.ones((1, 3))
    of = average_precision if name.startswith("ap") else pooled_f1
    assert told.value == of(images, once, threshold)[0]  # type: ignore[arg-type]
    drawn = counts[:, :3].sum(axis=1) > 0
    assert not drawn.all(), "the fourth image alone may be drawn"
    expected = np.where(drawn, of(images, counts[:, :3], threshold), np.nan)  # type: ignore[arg-type]
    np.testing.assert_allclose(told.resampled, expected)


def test_a_round_that_draws_an_image_once_has_its_value_and_one_that_does_not_has_none() -> None:
    columns, counts = draw(["e0", "e1"], 60)
    told = sample(METRICS["iou"], [record(0, "a", 0.25)], columns, counts)
    assert told is not None
    assert set(counts[:, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(told.resampled, np.where(counts[:, 0] > 0, 0.25, np.nan))
    assert sample(METRICS["iou"], [record(0, "a", None)], columns, counts) is None


def test_a_figure_of_objects_needs_a_threshold() -> None:
    columns, counts = draw(["e0"], 2)
    metric = Metric("f1", "F1", "higher", "F1 without a threshold", "pooled_f1")
    with pytest.raises(ValueError, match="needs an IoU threshold"):
        sample(metric, [record(0, "a", detections=objects((), (), 1))], columns, counts)


def test_an_interval_is_of_the_rounds_that_define_the_figure() -> None:
    one = interval(0.5, np.array([math.nan, 0.4]), 3)
    assert (one.low, one.high, one.images) == (0.4, 0.4, 3)
    for rounds, images in (([math.nan, math.nan], 3), ([], 3), ([0.4, 0.5], 1)):
        none = interval(0.5, np.array(rounds), images)
        assert none.value == 0.5
        assert math.isnan(none.low)
        assert math.isnan(none.high)
        assert not none.excludes_zero
