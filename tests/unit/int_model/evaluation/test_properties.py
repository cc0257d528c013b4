"""What holds for all masks, however odd: ranges, symmetries, relations between figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from int_model.evaluation.instances import average_precision, match, pooled_f1
from int_model.evaluation.records import THRESHOLDS, pack_record, unpack_record
from int_model.evaluation.records import Record as Kept
from int_model.evaluation.regions import boundary_f, overlap
from int_model.evaluation.saliency import correction_efforts, saliency

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    return draw(arrays(np.bool_, shape)), draw(arrays(np.bool_, shape))


@given(two_masks())
def test_overlap_keeps_its_ranges_symmetries_and_relations(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    figures, turned = overlap(a, b), overlap(b, a)
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["iou"] == turned["iou"]
    assert figures["dice"] == turned["dice"] == pytest.approx(2 * figures["iou"] / (1 + figures["iou"]))
    assert figures["accuracy"] == pytest.approx(1 - np.mean(a ^ b))
    assert (figures["iou"] == 1) == np.array_equal(a, b)
    assert boundary_f(a, b) == pytest.approx(boundary_f(b, a))
    assert boundary_f(a[:, ::-1], b[:, ::-1]) == pytest.approx(boundary_f(a, b))


@given(two_masks())
@settings(max_examples=40)
def test_saliency_is_finite_and_does_not_mind_a_mirror(pair: tuple[np.ndarray, np.ndarray]) -> None:
    mask, truth = pair
    levels = mask.astype(np.uint8) * 255
    figures = saliency(levels, truth).values
    mirrored = saliency(levels[::-1, ::-1], truth[::-1, ::-1]).values
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["mae"] == pytest.approx(np.mean(mask ^ truth))
    for name in figures.keys() - {"s", "wf_b03", "wf_b1"}:  # their quadrants and nearest pixels break ties by side
        assert mirrored[name] == pytest.approx(figures[name], abs=1e-9), name
    assert correction_efforts(mask, truth) >= 0
    assert correction_efforts(truth, truth) == 0


@given(st.data(), SHAPES, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=60)
def test_matching_is_one_to_one_and_stricter_thresholds_match_less(
    data: st.DataObject, shape: tuple[int, int], found: int, true: int
) -> None:
    masks = [data.draw(arrays(np.bool_, shape)) for _ in range(found)]
    truths = [data.draw(arrays(np.bool_, shape)) for _ in range(true)]
    scores = [data.draw(st.floats(0, 1)) for _ in masks]
    result = match(masks, scores, truths)
    hits = [sum(row) for row in result.matched]
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert all(hit <= min(len(result.scores), result.truths) for hit in hits)
    assert hits[-1] <= hits[0]
    once = np.ones((1, 1))
    assert 0 <= pooled_f1([result], once, 0.5)[0] <= 1
    for threshold in (None, *THRESHOLDS):
        value = average_precision([result], once, threshold)[0]
        assert math.isnan(value) if result.truths == 0 else 0 <= value <= 1
    kept = Kept("e", "polyp", "", "v", 0, detections=result)
    assert unpack_record(pack_record(kept)) == kept


@given(st.dictionaries(st.text(max_size=5), st.none() | st.floats(allow_nan=False)), st.text(), st.text())
def test_records_survive_json_whatever_their_texts(metrics: dict[str, float | None], name: str, error: str) -> None:
    curves = {"c": np.linspace(0, 1, 7)}
    kept = Kept(f"{name}\udcff", "polyp", "g", "v", 3, error=error, metrics=metrics, name=name, curves=curves)
    back = unpack_record(pack_record(kept))
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}
    assert (back.example, back.metrics, back.name, back.error) == (f"{name}\udcff", finite, name, error)
    np.testing.assert_array_equal(back.curves["c"], kept.curves["c"])
