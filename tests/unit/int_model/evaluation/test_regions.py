"""Overlap and outlines: against the reference library and brute force, on random and degenerate masks."""

from __future__ import annotations

import math

import cv2
import numpy as np
import py_sod_metrics
import pytest

from int_model.evaluation.regions import boundary_f, boundary_iou, overlap, tolerance_pixels
from tests.unit.int_model.evaluation.masks import PAIRS, blob, degenerate

HANDLERS = {
    "iou": py_sod_metrics.IOUHandler,
    "dice": py_sod_metrics.DICEHandler,
    "sensitivity": py_sod_metrics.SensitivityHandler,
    "specificity": py_sod_metrics.SpecificityHandler,
    "accuracy": py_sod_metrics.OverallAccuracyHandler,
}


def random_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(11)
    return [(blob(rng), blob(rng)) for _ in range(20)]


@pytest.mark.parametrize("pair", range(20))
def test_overlap_equals_the_reference_library(pair: int) -> None:
    mask, truth = random_pairs()[pair]
    handlers = {name: handler(False, False, with_binary=True) for name, handler in HANDLERS.items()}
    library = py_sod_metrics.FmeasureV2(handlers)
    library.step(mask.astype(np.uint8) * 255, truth.astype(np.uint8) * 255)
    expected = library.get_results()
    for name, value in overlap(mask, truth).items():
        assert value == pytest.approx(expected[name]["binary"], abs=1e-6), name


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_degenerate_masks_have_defined_figures(a: str, b: str) -> None:
    masks = degenerate()
    mask, truth = masks[a], masks[b]
    figures = overlap(mask, truth)
    assert all(0 <= value <= 1 and math.isfinite(value) for value in figures.values())
    assert 0 <= boundary_f(mask, truth) <= 1
    if a == b:
        assert all(value == 1 for value in figures.values())
        assert boundary_f(mask, truth) == 1
    if (a == "empty") != (b == "empty"):
        assert figures["iou"] == figures["dice"] == boundary_f(mask, truth) == 0


def outline(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    core = np.ones_like(mask)
    for dy in range(3):
        for dx in range(3):
            core &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return mask & ~core


@pytest.mark.parametrize("pair", range(20))
def test_boundary_f_equals_dilating_the_outlines_by_a_disk(pair: int) -> None:
    mask, truth = random_pairs()[pair]
    reach = tolerance_pixels(mask.shape)
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (yy**2 + xx**2 <= reach**2).astype(np.uint8)
    a, b = outline(mask), outline(truth)
    near_a, near_b = (cv2.dilate(o.astype(np.uint8), disk) > 0 for o in (a, b))
    precision, recall = (a & near_b).sum() / a.sum(), (b & near_a).sum() / b.sum()
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert boundary_f(mask, truth) == pytest.approx(expected, abs=1e-6)


def test_the_tolerance_is_a_part_of_the_diagonal() -> None:
    assert tolerance_pixels((10, 10)) == 1
    assert tolerance_pixels((300, 400)) == 4
    a = np.zeros((300, 400), dtype=np.bool_)
    a[100:200, 100:200] = True
    moved = np.roll(a, 4, axis=1)
    far = np.roll(a, 12, axis=1)
    assert boundary_f(moved, a) == 1
    assert boundary_f(far, a) < 0.7
    with pytest.raises(ValueError, match="differ in shape"):
        overlap(a, a[1:])


@pytest.mark.parametrize("pair", range(20))
def test_boundary_iou_equals_eroding_the_masks_by_a_disk(pair: int) -> None:
    mask, truth = random_pairs()[pair]
    reach = tolerance_pixels(mask.shape, 0.02)
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (yy**2 + xx**2 <= reach**2).astype(np.uint8)
    a, b = (
        one & (cv2.erode(one.astype(np.uint8), disk, borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0)
        for one in (mask, truth)
    )
    assert boundary_iou(mask, truth) == pytest.approx((a & b).sum() / (a | b).sum(), abs=0.02)


def test_boundary_iou_does_not_forgive_large_objects_their_outlines() -> None:
    truth = np.zeros((400, 400), dtype=np.bool_)
    truth[50:350, 50:350] = True
    grown = cv2.dilate(truth.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    assert overlap(grown, truth)["iou"] > 0.9
    assert boundary_iou(grown, truth) < 0.4
    assert boundary_iou(truth, truth) == boundary_iou(truth & False, truth & False) == 1
    assert boundary_iou(truth & False, truth) == 0
