"""What is scored: soft or binary, at which size, empty predictions counted; the published way step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import py_sod_metrics
import pytest
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Instance, Segmentation, Trace
from int_model.evaluation.datasets import read_mask
from int_model.evaluation.protocol import PROTOCOLS, chosen_protocol, grey_levels, score
from int_model.strategies.registry import make_strategy
from tests.support.fakes import TASK, fake_suite, scene
from tests.unit.int_model.evaluation.masks import blob, soft


def segmentation(
    *masks: np.ndarray, size: tuple[int, int] = (48, 64), soft_mask: np.ndarray | None = None
) -> Segmentation:
    instances = tuple(Instance.of_mask(mask, "polyp", 0.9 - 0.1 * i) for i, mask in enumerate(masks))
    return Segmentation(
        size, "polyp", instances, 0.9, Trace("polyp", "int"), "frog", soft_mask, "" if instances else "nothing there"
    )


def test_the_published_way_is_the_library_s_on_masks_resized_to_1024() -> None:
    rng = np.random.default_rng(2)
    mask, truth = blob(rng, 90, 130), blob(rng, 90, 130)
    found = score(segmentation(mask, size=(90, 130), soft_mask=soft(rng, mask)), truth, protocol=PROTOCOLS["promac"])

    def square(m: np.ndarray) -> np.ndarray:
        picture = PilImage.fromarray(m.astype(np.uint8) * 255).resize((1024, 1024), PilImage.Resampling.NEAREST)
        return np.asarray(picture)

    pred, grey = square(mask), square(truth)
    metrics = {
        "mae": py_sod_metrics.MAE(),
        "s": py_sod_metrics.Smeasure(),
        "wf_b03": py_sod_metrics.WeightedFmeasure(beta=0.3),
        "e_mean": py_sod_metrics.Emeasure(),
    }
    for metric in metrics.values():
        metric.step(pred, grey)
    assert found.metrics["mae"] == pytest.approx(metrics["mae"].get_results()["mae"], abs=1e-6)
    assert found.metrics["s"] == pytest.approx(metrics["s"].get_results()["sm"], abs=1e-6)
    assert found.metrics["wf_b03"] == pytest.approx(metrics["wf_b03"].get_results()["wfm"], abs=1e-6)
    assert found.metrics["e_mean"] == pytest.approx(metrics["e_mean"].get_results()["em"]["curve"].mean(), abs=1e-6)


def test_native_takes_the_soft_map_and_mask_the_binary_one() -> None:
    rng = np.random.default_rng(4)
    mask = blob(rng)
    result = segmentation(mask, soft_mask=soft(rng, mask))
    native, binary = score(result, mask), score(result, mask, protocol=PROTOCOLS["mask"])
    assert binary.metrics["mae"] == 0
    assert native.metrics["mae"] > 0.01
    assert native.metrics["iou"] == binary.metrics["iou"] == 1


def test_an_empty_prediction_is_scored_as_zeros_whatever_its_soft_map() -> None:
    rng = np.random.default_rng(6)
    truth = blob(rng)
    empty = score(segmentation(soft_mask=soft(rng, truth)), truth, (truth,))
    assert empty.metrics["empty"] == 1
    assert empty.metrics["iou"] == 0
    assert empty.metrics["mae"] == pytest.approx(truth.mean())
    assert empty.detections is not None
    assert (empty.detections.scores, empty.detections.truths) == ((), 1)


def test_names_count_only_where_both_are_known() -> None:
    truth = blob(np.random.default_rng(8))
    result = segmentation(truth)
    assert score(result, truth, name="frog").metrics["named"] == 1
    assert score(result, truth, name="owl").metrics["named"] == 0
    assert score(result, truth).metrics["named"] is None
    by_task = Segmentation(truth.shape, "Polyp", result.instances, 0.9, result.trace, "polyp")
    assert score(by_task, truth, name="frog").metrics["named"] is None


def test_the_contrast_is_the_true_name_s_fall_minus_the_strongest_wrong_one_s() -> None:
    image, (mask,) = scene(objects=[("frog", 40, 50, 20)])
    (found,) = make_strategy("int", fake_suite()).segment([image], TaskPrompt(TASK))
    first = found.trace.iterations[0]
    fall = dict(zip(found.trace.names, (first.p_original - first.p_inpainted).max(axis=0), strict=False))
    told = score(found, mask, name="frog").metrics["contrast"]
    assert told == pytest.approx(fall["frog"] - max(value for name, value in fall.items() if name != "frog"))
    assert told > 0
    for name in ("unicorn", None):
        assert score(found, mask, name=name).metrics["contrast"] is None
    assert score(segmentation(mask, size=mask.shape), mask, name="frog").metrics["contrast"] is None


def test_single_objects_say_nothing_where_the_truth_has_none_known() -> None:
    truth = blob(np.random.default_rng(9))
    assert score(segmentation(truth), truth).detections is None
    with pytest.raises(ValueError, match="the truth is"):
        score(segmentation(truth), truth[1:])


def test_a_protocol_is_taken_by_name_and_an_unknown_one_names_the_choice() -> None:
    for name, protocol in PROTOCOLS.items():
        assert chosen_protocol(name) is chosen_protocol(protocol) is protocol
    with pytest.raises(ValueError, match="there is no protocol 'soft'; choose one of: native, mask, promac"):
        chosen_protocol("soft")


@pytest.mark.parametrize(("name", "sought"), [("native", 2), ("mask", 2), ("promac", 4)])
def test_grey_pixels_of_a_mask_file_count_as_the_protocol_says(name: str, sought: int, tmp_path: Path) -> None:
    """Above grey 128; as the released code scores, any but 0."""
    PilImage.fromarray(np.array([[0, 1, 128, 129, 255]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", PROTOCOLS[name].truth_above).sum() == sought


def test_a_soft_map_has_the_grey_levels_of_its_png() -> None:
    given = np.array([[0, 0.2, 0.6, 1, 1.7, -3, np.nan, np.inf, -np.inf]], np.float32)
    levels = grey_levels(given)
    assert levels.dtype == np.uint8
    assert levels.tolist() == [[0, 51, 153, 255, 255, 0, 0, 0, 0]]
