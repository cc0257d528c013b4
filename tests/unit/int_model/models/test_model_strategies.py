"""Every strategy through real (if random) models: adapters and method agree on shapes, types and coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.models.suite import ModelSuite
from int_model.strategies.registry import default_config, make_strategy
from tests.unit.int_model.models.tiny import picture

IMAGES = [picture(60, 90, 1), picture(80, 50, 2)]


@pytest.mark.parametrize("name", ["int", "vlm_box", "grounded_sam", "promac"])
def test_a_strategy_runs_on_the_adapters_and_repeats_itself(suite: ModelSuite, name: str) -> None:
    config: Any = default_config(name)
    if name == "promac":  # every iteration is the same work again
        config = config.model_copy(update={"promac": config.promac.model_copy(update={"iterations": 2})})
    results, again = (
        make_strategy(name, suite, config).segment(IMAGES, TaskPrompt("camouflaged animal")) for _ in range(2)
    )
    for image, one, two in zip(IMAGES, results, again, strict=True):
        assert one.size == image.shape[:2]
        assert one.instances or one.reason
        assert (one.trace.calls["segmenter_encode"] == 1) == (name != "promac")
        assert np.array_equal(one.mask, two.mask)
        assert one.score == pytest.approx(two.score, abs=1e-6)
