"""SAM 3 asked for the task prompt: one model, one question, a mask of every instance (not part of any INT paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Detection, Progress
from int_model.models.calls import ModelCalls
from int_model.strategies.baselines import OnePass, name_by_task
from int_model.strategies.negative_mining.semantic_masks import FoundBoxes
from int_model.strategies.negative_mining.state import Decoded, ImageState

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


class Sam3Text(OnePass):
    """What SAM 3 finds for the task prompt. Raises ``ValueError`` if the suite has no such model.

    The model gives one score per instance; it stands for the detector's score and for the predicted IoU.
    """

    name = "sam3"

    def __init__(self, suite: ModelSuite, config: IntConfig, progress: Progress | None = None) -> None:
        if suite.concepts is None:
            raise ValueError(
                f"the strategy 'sam3' needs SAM 3, which the profile '{suite.profile}' does not load: use the profile "
                "'sam3', or set concepts.id, for instance to facebook/sam3"
            )
        super().__init__(suite, config, progress)

    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        name = task.text.lower()
        images = [state.image for state in states]
        threshold = self._config.sam3.threshold
        answers = calls.find([state.owner for state in states], images, [name] * len(states), threshold=threshold)
        for state, found in zip(states, answers, strict=True):
            if not found:
                state.reason = f"SAM 3 found no {task.text}"
                continue
            best = found[: self._config.sam3.max_instances]
            boxes = tuple(Detection(instance.box, min(1.0, instance.score), name) for instance in best)
            name_by_task(state, task, (), FoundBoxes(boxes, "sam3"))
            scores = np.array([instance.score for instance in best], dtype=np.float64)
            state.decoded = Decoded((), tuple(instance.soft for instance in best), scores)

    def _decode(self, calls: ModelCalls, states: Sequence[ImageState]) -> None:
        """The masks came with the boxes."""
