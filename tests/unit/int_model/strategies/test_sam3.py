from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from int_model.core.options import ConfigError
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Image
from int_model.models.protocols import ConceptMask
from int_model.strategies.registry import default_config, make_strategy
from tests.support.fakes import TASK, FakeConcepts, fake_suite, scene

TWO = [("frog", 32, 48, 14), ("frog", 96, 44, 12)]


def test_every_instance_is_a_mask_of_its_own() -> None:
    image, truths = scene(objects=TWO)
    model = FakeConcepts()
    (result,) = make_strategy("sam3", fake_suite(concepts=model)).segment([image], TaskPrompt("Camouflaged animal"))
    assert model.asked == [(TASK, 0.3)]
    assert result.trace.calls == {"concepts": 1}
    assert [i.label for i in result.instances] == [TASK] * 2
    for instance, truth in zip(sorted(result.instances, key=lambda i: -i.area), truths, strict=True):
        assert np.array_equal(instance.mask, truth)
    assert result.soft_mask is not None
    assert result.soft_mask.max() == pytest.approx(0.9)


def test_options_are_used() -> None:
    image, _ = scene(objects=TWO)
    config = default_config("sam3", {"sam3": {"threshold": 0.5, "max_instances": 1}})
    model = FakeConcepts()
    (result,) = make_strategy("sam3", fake_suite(concepts=model), config).segment([image], TaskPrompt(TASK))
    assert model.asked[0][1] == 0.5
    assert len(result.instances) == 1


class Many(FakeConcepts):
    """Sixty instances; a score may exceed 1 by the last bit of a float."""

    def find(self, images: Sequence[Image], names: Sequence[str], *, threshold: float) -> list[list[ConceptMask]]:
        soft = np.full(images[0].shape[:2], 0.9, np.float32)
        scores = [1.0000001 - 0.01 * i for i in range(60)]
        return [[ConceptMask(score, Box(4, 4, 20, 20), soft) for score in scores] for _ in images]


def test_at_most_fifty_instances_are_taken_by_default_and_their_scores_are_shares() -> None:
    (result,) = make_strategy("sam3", fake_suite(concepts=Many())).segment([scene()[0]], TaskPrompt(TASK))
    (iteration,) = result.trace.iterations
    assert [detection.score for detection in iteration.boxes] == pytest.approx([1 - 0.01 * i for i in range(50)])
    assert max(detection.score for detection in iteration.boxes) == 1.0


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_no_score_can_reach_or_miss_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"sam3\.threshold"):
        default_config("sam3", {"sam3": {"threshold": threshold}})


def test_nothing_found_has_a_reason_and_harms_no_neighbour() -> None:
    images = [scene()[0], scene(objects=TWO)[0]]
    empty, full = make_strategy("sam3", fake_suite()).segment(images, TaskPrompt(TASK))
    assert (empty.instances, empty.reason) == ((), f"SAM 3 found no {TASK}")
    assert len(full.instances) == 2


def test_a_profile_without_the_model_is_told_the_cure() -> None:
    suite = dataclasses.replace(fake_suite(), concepts=None)
    with pytest.raises(ValueError, match="use the profile 'sam3', or set concepts"):
        make_strategy("sam3", suite)
