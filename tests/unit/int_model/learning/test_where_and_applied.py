from __future__ import annotations

import numpy as np
import pytest

from int_model import TaskPrompt, make_strategy
from int_model.core.types import Segmentation
from int_model.learning.adaptation import Adaptation, Calibration, Outline
from int_model.learning.applied import AdaptedStrategy
from int_model.learning.arms.outlines import overlap
from int_model.learning.fit import FitOptions, Fitter
from int_model.learning.sam import TrainableSam
from int_model.learning.views import Augmentation
from int_model.learning.where import boxes_of, cell_features, fit_probe, heat_map
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.suite import ModelSuite
from int_model.nano.conventions import annotated_scene
from tests.unit.int_model.learning.conftest import disc, drawn

DISC = TaskPrompt("disc")


def same(one: Segmentation, other: Segmentation) -> bool:
    if (one.name, len(one.instances)) != (other.name, len(other.instances)):
        return False
    pairs = zip(one.instances, other.instances, strict=True)
    return all(np.array_equal(a.mask, b.mask) and a.score == b.score for a, b in pairs)


def fitter(segmenter: HFSamSegmenter) -> Fitter:
    return Fitter(segmenter, FitOptions(steps=10, augmentation=Augmentation(views=3)))


def test_features_of_a_cell_hold_its_surroundings() -> None:
    features = np.zeros((2, 8, 8), dtype=np.float32)
    features[0, 3, 3] = 9
    cells = cell_features(features, 8, 6)
    assert cells.shape == (8, 6, 6)
    assert cells[3, 3, 0] == 9
    assert cells[3, 3, 2] == pytest.approx(1)  # mean over 3 x 3
    assert cells[3, 3, 4] == pytest.approx(9 / 49)
    assert cells[2, 2, 2] == pytest.approx(1)


def test_boxes_are_those_of_components_and_noise_has_none() -> None:
    heat = np.zeros((60, 80), dtype=np.float32)
    heat[10:30, 10:30] = 0.9
    heat[40:55, 50:75] = 0.7
    heat[5, 60] = 1.0
    found = boxes_of(heat, 0.5)
    assert [detection.box.as_tuple() for detection in found] == [(10, 10, 30, 30), (50, 40, 75, 55)]
    assert found[0].score == pytest.approx(0.9)


def test_components_count_from_sixteen_pixels_and_a_five_hundredth_of_the_image_on() -> None:
    for size, sides, kept in (((40, 50), (4, 4), True), ((40, 50), (3, 5), False),
                              ((200, 200), (8, 10), True), ((200, 200), (8, 9), False)):  # fmt: skip
        heat = np.zeros(size, dtype=np.float32)
        heat[5 : 5 + sides[0], 7 : 7 + sides[1]] = 0.5  # at the threshold itself
        found = boxes_of(heat, 0.5)
        assert [one.box.as_tuple() for one in found] == [(7, 5, 7 + sides[1], 5 + sides[0])] * kept
    two = np.full((40, 50), 0.1, dtype=np.float32)
    two[2:12, 2:12] = np.linspace(0.5, 0.7, 100).reshape(10, 10)
    two[20:35, 20:45] = 0.9
    two[22:33, 22:43] = 0.2  # a frame: what it surrounds is not its own
    assert [one.score for one in boxes_of(two, 0.5)] == pytest.approx([0.9, 0.6])


def test_a_probe_learns_where_discs_are_from_two_images_and_finds_them_in_another(segmenter: HFSamSegmenter) -> None:
    probe = fitter(segmenter).probes([drawn(1), drawn(2)])["disc"]
    sam = TrainableSam(segmenter)
    other = drawn(11, count=2)
    (encoded,) = sam.encode([other.image])
    heat = heat_map(probe, encoded, sam.side)
    assert heat.shape == other.size
    mask = other.mask_of("disc")
    assert heat[mask].mean() > heat[~mask].mean() + 0.5
    assert overlap(heat > 0.5, mask) > 0.5


def test_a_label_that_fills_every_image_makes_no_probe(segmenter: HFSamSegmenter) -> None:
    sam = TrainableSam(segmenter)
    (encoded,) = sam.encode([drawn(1).image])
    assert fit_probe(sam, [(encoded, np.ones((96, 128), dtype=np.bool_))]) is None


def test_the_identity_serves_what_the_strategy_serves(nano: ModelSuite) -> None:
    scene = annotated_scene("plain", 1)
    task = TaskPrompt(scene.task)
    plain = make_strategy("grounded_sam", nano)
    adapted = AdaptedStrategy(lambda suite: make_strategy("grounded_sam", suite), nano, Adaptation())
    assert adapted.name == "grounded_sam"
    assert same(plain.segment([scene.image], task)[0], adapted.segment([scene.image], task)[0])


def test_other_task_prompts_are_served_as_before(nano: ModelSuite) -> None:
    """A learned outline of one label leaves every other label as it was, to the bit."""
    scene = annotated_scene("halo", 0)
    task = TaskPrompt(scene.task)
    changed = Adaptation(outlines={scene.task: Outline(offset=0.12)})
    foreign = Adaptation(outlines={"something else": Outline(offset=0.12)})
    make = lambda suite: make_strategy("grounded_sam", suite)  # noqa: E731
    before = make(nano).segment([scene.image], task)[0]
    assert same(before, AdaptedStrategy(make, nano, foreign).segment([scene.image], task)[0])
    after = AdaptedStrategy(make, nano, changed).segment([scene.image], task)[0]
    assert after.mask.sum() > 1.2 * before.mask.sum()


def test_a_probe_finds_what_the_detector_does_not_know(nano: ModelSuite, segmenter: HFSamSegmenter) -> None:
    """The kit's detector has never heard of cells."""
    scenes = [annotated_scene("cells", index) for index in range(5)]
    from int_model.learning.examples import Example, Target

    examples = [Example(s.image, tuple(Target(s.task, mask) for mask in s.masks)) for s in scenes]
    probes = fitter(segmenter).probes(examples[:4])
    make = lambda suite: make_strategy("grounded_sam", suite)  # noqa: E731
    task, held = TaskPrompt("cell"), examples[4]
    before = make(nano).segment([held.image], task)[0]
    after = AdaptedStrategy(make, nano, Adaptation(probes=probes)).segment([held.image], task)[0]
    truth = held.mask_of("cell")
    assert overlap(after.mask, truth) > overlap(before.mask, truth) + 0.1


def test_calibrated_scores_replace_raw_ones(nano: ModelSuite) -> None:
    scene = annotated_scene("plain", 1)
    make = lambda suite: make_strategy("grounded_sam", suite)  # noqa: E731
    half = Calibration(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    task = TaskPrompt(scene.task)
    before = make(nano).segment([scene.image], task)[0]
    after = AdaptedStrategy(make, nano, Adaptation(calibrations={scene.task: half})).segment([scene.image], task)[0]
    assert [entry.score for entry in after.instances] == pytest.approx([e.score / 2 for e in before.instances])
    assert disc((3, 3), 1, 1, 1).any()
