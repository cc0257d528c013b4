"""The whole of learning on a small project: judged, kept step by step, resumed after a kill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model import make_strategy
from int_model.learning.adaptation import Adaptation
from int_model.learning.applied import AdaptedStrategy
from int_model.learning.examples import Example, Target
from int_model.learning.fit import FitOptions, Fitter
from int_model.learning.learn import Learner, MemoryJournal, Outcome
from int_model.learning.views import Augmentation
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.suite import ModelSuite
from int_model.nano.conventions import annotated_scene

QUICK = FitOptions(steps=6, augmentation=Augmentation(views=2))


def examples_of(convention: str, count: int, *, shuffled: bool = False) -> list[Example]:
    scenes = [annotated_scene(convention, index) for index in range(count)]  # type: ignore[arg-type]
    found = []
    for index, scene in enumerate(scenes):
        masks = scene.masks
        if shuffled:  # masks of other images: there is nothing to learn
            other = scenes[(index + 1) % count].masks[0]
            rows, columns = scene.image.shape[:2]
            canvas = np.zeros((rows, columns), dtype=np.bool_)
            high, wide = min(rows, other.shape[0]), min(columns, other.shape[1])
            canvas[:high, :wide] = other[:high, :wide]
            masks = (canvas,) if canvas.any() else scene.masks
        found.append(Example(scene.image, tuple(Target(scene.task, mask) for mask in masks), id=f"task {index}"))
    return found


@pytest.fixture
def learner(nano: ModelSuite, segmenter: HFSamSegmenter) -> Any:
    def make(**options: Any) -> Learner:
        def apply(adaptation: Adaptation) -> AdaptedStrategy:
            return AdaptedStrategy(lambda suite: make_strategy("grounded_sam", suite), nano, adaptation)

        return Learner(Fitter(segmenter, QUICK), apply, **options)

    return make


def test_a_new_outline_convention_is_learned_and_promoted_without_training(learner: Any) -> None:
    outcome: Outcome = learner(arms=("base", "slots", "outlines")).learn(examples_of("halo", 8))
    assert outcome.verdict.promoted, outcome.verdict.reasons
    assert outcome.verdict.arm == "outlines"
    assert outcome.table["outlines"]["mean"] > outcome.table["base"]["mean"] + 0.05
    assert outcome.end_to_end["candidate"] > outcome.end_to_end["parent"]
    assert outcome.worst[0][0].startswith("task ")


def test_masks_that_fit_no_image_are_not_promoted(learner: Any) -> None:
    outcome = learner(arms=("base", "slots", "outlines")).learn(examples_of("plain", 8, shuffled=True))
    assert not outcome.verdict.promoted
    assert outcome.verdict.reasons


def test_few_images_train_no_weights(learner: Any) -> None:
    outcome = learner().learn(examples_of("halo", 4))
    assert set(outcome.table) == {"base", "slots", "outlines"}


def test_one_image_is_not_enough_to_judge(learner: Any) -> None:
    with pytest.raises(ValueError, match="at least two images"):
        learner().learn(examples_of("halo", 1))


def test_a_training_that_was_killed_goes_on_and_comes_to_the_same(learner: Any) -> None:
    examples, arms = examples_of("halo", 8), ("base", "tokens")
    whole = learner(arms=arms, journal=MemoryJournal()).learn(examples)
    journal = MemoryJournal()

    def kill(done: int, total: int, what: str) -> None:
        assert 0 < done <= total
        if done == 7:
            raise KeyboardInterrupt(what)

    with pytest.raises(KeyboardInterrupt):
        learner(arms=arms, journal=journal, stage_done=kill).learn(examples)
    kept = dict(journal)
    assert kept
    told: list[str] = []
    again = learner(arms=arms, journal=journal, stage_done=lambda *step: told.append(step[2])).learn(examples)
    assert all(journal[key] == value for key, value in kept.items())
    assert again.table == whole.table
    assert again.verdict == whole.verdict
    assert told[-1] == "calibration"
