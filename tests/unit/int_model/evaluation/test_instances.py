"""Objects: matching, F1 and average precision against pycocotools on random scenes."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from int_model.evaluation.instances import average_precision, iou_table, match, pooled_f1
from int_model.evaluation.records import THRESHOLDS, Detections

SIZE = (40, 50)
Scene = tuple[list[np.ndarray], list[float], list[np.ndarray]]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    return (xx - x) ** 2 + (yy - y) ** 2 <= radius**2


def random_scene(rng: np.random.Generator) -> Scene:
    truths = [disc(rng.uniform(0, 50), rng.uniform(0, 40), rng.uniform(2, 9)) for _ in range(rng.integers(0, 5))]
    masks = []
    for truth in truths:
        for _ in range(rng.integers(0, 3)):
            masks.append(np.roll(truth, tuple(rng.integers(-2, 3, 2)), axis=(0, 1)))
    masks += [disc(rng.uniform(0, 50), rng.uniform(0, 40), rng.uniform(1, 8)) for _ in range(rng.integers(0, 3))]
    scores = [float(s) for s in rng.choice(np.linspace(0.05, 0.95, 400), len(masks), replace=False)]
    return [m for m in masks if m.any()], [s for m, s in zip(masks, scores, strict=True) if m.any()], truths


def coco_stats(scenes: list[Scene]) -> np.ndarray:
    rle = [[coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in s[2] if m.any()] for s in scenes]
    truth = {
        "info": {},
        "images": [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(scenes))],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "image_id": i + 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": r,
                "area": float(coco_mask.area(r)),
                "bbox": list(coco_mask.toBbox(r)),
            }
            for i, own in enumerate(rle)
            for r in own
        ],
    }
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    found = [
        {
            "image_id": i + 1,
            "category_id": 1,
            "score": score,
            "segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
        }
        for i, (masks, scores, _) in enumerate(scenes)
        for mask, score in zip(masks, scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = truth
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(12)]
    images = [match(*scene) for scene in scenes]
    once = np.ones((1, len(images)))
    expected = coco_stats(scenes)
    for threshold, stat in ((None, 0), (0.5, 1), (0.75, 2)):
        assert average_precision(images, once, threshold)[0] == pytest.approx(expected[stat], abs=1e-6)
    assert 0.05 < expected[0] < 0.95  # neither trivial


@pytest.mark.parametrize("seed", range(4))
def test_iou_equals_pycocotools(seed: int) -> None:
    masks, _, truths = random_scene(np.random.default_rng(100 + seed))
    truths = [t for t in truths if t.any()]
    a, b = ([coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in part] for part in (masks, truths))
    expected = np.asarray(coco_mask.iou(a, b, [0] * len(b))).reshape(len(a), len(b)) if a and b else 0
    np.testing.assert_allclose(iou_table(masks, truths), expected, atol=1e-6)


def test_f1_counts_objects_over_all_images() -> None:
    one, other, third = disc(10, 10, 6), disc(35, 25, 6), disc(10, 30, 5)
    images = [match([one, third], [0.9, 0.8], [one, other]), match([], [], []), match([], [], [one])]
    assert pooled_f1(images, np.ones((1, 3)), 0.5)[0] == pytest.approx(2 * 1 / (2 + 3))
    draws = np.array([[1, 0, 0], [0, 3, 0], [0, 0, 2]], dtype=float)
    assert pooled_f1(images, draws, 0.5).tolist() == [0.5, 1.0, 0.0]


def test_each_truth_is_matched_once_and_empty_masks_are_left_out() -> None:
    thing, nothing = disc(20, 20, 8), np.zeros(SIZE, dtype=np.bool_)
    found = match([thing, thing, nothing], [0.4, 0.9, 1.0], [thing, nothing])
    assert found.scores == (0.9, 0.4)
    assert found.truths == 1
    assert all(row == (True, False) for row in found.matched)


def test_average_precision_of_nothing_is_undefined_and_of_misses_zero() -> None:
    empty = Detections((), ((),) * len(THRESHOLDS), 0)
    missed = Detections((), ((),) * len(THRESHOLDS), 2)
    assert np.isnan(average_precision([empty], np.ones((1, 1)), None)[0])
    assert average_precision([missed], np.ones((1, 1)), None)[0] == 0


def test_resampled_precision_equals_precision_of_the_resampled_images() -> None:
    rng = np.random.default_rng(3)
    images = [match(*random_scene(rng)) for _ in range(6)]
    weights = np.array([[2, 0, 1, 1, 2, 0], [0, 0, 0, 6, 0, 0]], dtype=float)
    for row in weights:
        drawn = [image for image, times in zip(images, row, strict=True) for _ in range(int(times))]
        # Copies of one prediction tie; counted together or one after another, the envelope is the same at its end.
        expected = average_precision(drawn, np.ones((1, len(drawn))), 0.5)[0]
        assert average_precision(images, row[None], 0.5)[0] == pytest.approx(expected, abs=0.02)
