"""The camouflage figures equal the reference library's, and formulas written down here on their own, to 1e-6."""

from __future__ import annotations

import math
import warnings

import numpy as np
import py_sod_metrics
import pytest

from int_model.evaluation.protocol import grey_levels
from int_model.evaluation.saliency import correction_efforts, saliency
from tests.unit.int_model.evaluation.masks import PAIRS, blob, degenerate, soft


def cases() -> list[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    out = []
    for i in range(12):
        truth, near = blob(rng), blob(rng)
        out.append((f"random {i}", grey_levels(soft(rng, truth | near)), truth))
        out.append((f"binary {i}", near.astype(np.uint8) * 255, truth))
    masks = degenerate()
    out += [(f"{a} for {b}", masks[a].astype(np.uint8) * 255, masks[b]) for a, b in PAIRS]
    return out


CASES = cases()


def stretched(levels: np.ndarray) -> np.ndarray:
    grey = levels / 255
    return grey if grey.max() == grey.min() else (grey - grey.min()) / (grey.max() - grey.min())


def values_of_s_without_empty_parts(levels: np.ndarray, truth: np.ndarray) -> float:
    """S of a truth whose centre is the last pixel: the one part that there is, is the whole."""
    assert truth[-1, -1]
    assert truth.sum() == 1
    measure, map_ = py_sod_metrics.Smeasure(), stretched(levels)
    return max(0.0, 0.5 * measure.object(map_, truth) + 0.5 * measure.ssim(map_, truth))


@pytest.mark.parametrize(("levels", "truth"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_every_figure_is_the_library_s_own_mean_over_one_image(levels: np.ndarray, truth: np.ndarray) -> None:
    expected = {}
    grey = truth.astype(np.uint8) * 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, beta in (("b03", 0.3), ("b1", 1.0)):
            old, weighted = py_sod_metrics.Fmeasure(beta=beta), py_sod_metrics.WeightedFmeasure(beta=beta)
            old.step(levels, grey)
            weighted.step(levels, grey)
            found = old.get_results()["fm"]
            expected |= {f"f_adaptive_{name}": found["adp"], f"f_mean_{name}": found["curve"].mean()}
            expected |= {f"f_max_{name}": found["curve"].max(), f"wf_{name}": weighted.get_results()["wfm"]}
        e, s, mae = py_sod_metrics.Emeasure(), py_sod_metrics.Smeasure(), py_sod_metrics.MAE()
        for metric in (e, s, mae):
            metric.step(levels, grey)
        em = e.get_results()["em"]
        expected |= {"e_adaptive": em["adp"], "e_mean": em["curve"].mean(), "e_max": em["curve"].max()}
        expected |= {"s": s.get_results()["sm"], "mae": mae.get_results()["mae"]}
        if math.isnan(expected["s"]):  # the library's, if the truth's centre lies in the last row or column
            expected["s"] = values_of_s_without_empty_parts(levels, truth)
    values = saliency(levels, truth).values
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name
        assert math.isfinite(values[name]), name


def f_measure(binary: np.ndarray, truth: np.ndarray, beta: float) -> float:
    both = float((binary & truth).sum())
    return 0.0 if both == 0 else (1 + beta) * both / (beta * truth.sum() + binary.sum())


def alignment(binary: np.ndarray, truth: np.ndarray) -> float:
    """Enhanced alignment of two masks, straight from the definition (Fan et al. 2018), with its special cases."""
    if truth.all():
        enhanced = binary.astype(float)
    elif not truth.any():
        enhanced = 1.0 - binary
    else:
        a, b = binary - binary.mean(), truth - truth.mean()
        align = 2 * a * b / (a * a + b * b + np.spacing(1))
        enhanced = (1 + align) ** 2 / 4
    return float(enhanced.sum() / (truth.size - 1 + np.spacing(1)))


@pytest.mark.parametrize(("levels", "truth"), [c[1:] for c in CASES[::3]], ids=[c[0] for c in CASES[::3]])
def test_figures_equal_their_formulas(levels: np.ndarray, truth: np.ndarray) -> None:
    map_ = stretched(levels)
    values = saliency(levels, truth).values
    adaptive = map_ >= min(2 * map_.mean(), 1)
    scaled = (map_ * 255).astype(np.uint8)
    cuts = [scaled >= t for t in range(256)]
    aligned = [alignment(cut, truth) for cut in cuts]
    assert values["mae"] == pytest.approx(np.abs(map_ - truth).mean(), abs=1e-9)
    assert values["e_adaptive"] == pytest.approx(alignment(adaptive, truth), abs=1e-6)
    assert values["e_mean"] == pytest.approx(np.mean(aligned), abs=1e-6)
    assert values["e_max"] == pytest.approx(max(aligned), abs=1e-6)
    for name, beta in (("b03", 0.3), ("b1", 1.0)):
        curve = [f_measure(cut, truth, beta) for cut in cuts]
        assert values[f"f_adaptive_{name}"] == pytest.approx(f_measure(adaptive, truth, beta), abs=1e-6)
        assert values[f"f_mean_{name}"] == pytest.approx(np.mean(curve), abs=1e-6)
        assert values[f"f_max_{name}"] == pytest.approx(max(curve), abs=1e-6)


def test_the_two_betas_differ_and_are_not_swapped() -> None:
    truth = np.zeros((20, 20), dtype=np.bool_)
    truth[4:16, 4:16] = True
    levels = np.zeros((20, 20), dtype=np.uint8)
    levels[4:16, 4:10] = 255  # precision 1, recall 1/2
    values = saliency(levels, truth).values
    assert values["f_adaptive_b03"] == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))
    assert values["f_adaptive_b1"] == pytest.approx(2 * 0.5 / 1.5)


def test_an_empty_map_is_all_foreground_to_the_adaptive_threshold_only() -> None:
    truth = np.zeros((20, 20), dtype=np.bool_)
    truth[5:13, 6:11] = True  # a tenth
    values = saliency(np.zeros((20, 20), np.uint8), truth).values
    assert values["f_adaptive_b03"] == pytest.approx(f_measure(np.ones_like(truth), truth, 0.3))
    assert values["mae"] == pytest.approx(0.1)
    assert values["wf_b03"] == pytest.approx(0, abs=1e-9)


def test_weighted_f_credits_an_empty_map_where_the_truth_touches_the_edge() -> None:
    """A property of the definition (its filter pads with zeros), which reports must not hide."""
    truth = np.zeros((20, 20), dtype=np.bool_)
    truth[:8, :5] = True
    assert saliency(np.zeros((20, 20), np.uint8), truth).values["wf_b03"] > 0.3


def test_maps_and_truths_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be held against"):
        saliency(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.bool_))


def test_correction_efforts_count_what_a_person_does() -> None:
    truth = np.zeros((120, 160), dtype=np.bool_)
    truth[30:90, 30:90] = True
    assert correction_efforts(truth, truth) == 0
    stray = truth.copy()
    stray[20:50, 120:150] = True  # an island that is deleted with one click
    assert correction_efforts(stray, truth) == 1
    half = truth & (np.arange(160) < 55)
    missing = correction_efforts(half, truth)
    assert missing >= 4  # a polygon around the missing half
    assert correction_efforts(np.zeros_like(truth), truth) >= missing
    for a, b in PAIRS:
        masks = degenerate(60, 80)
        assert math.isfinite(correction_efforts(masks[a], masks[b]))
