from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from int_model.core.task_prompt import TaskPrompt
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


def test_nothing_found_has_a_reason_and_harms_no_neighbour() -> None:
    images = [scene()[0], scene(objects=TWO)[0]]
    empty, full = make_strategy("sam3", fake_suite()).segment(images, TaskPrompt(TASK))
    assert (empty.instances, empty.reason) == ((), f"SAM 3 found no {TASK}")
    assert len(full.instances) == 2


def test_a_profile_without_the_model_is_told_the_cure() -> None:
    suite = dataclasses.replace(fake_suite(), concepts=None)
    with pytest.raises(ValueError, match="use the profile 'sam3', or set concepts"):
        make_strategy("sam3", suite)
