"""SAM 3 asked for the task prompt: one model, one question, a mask of every instance (not part of any INT paper)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from int_model.core.options import Section
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Detection
from int_model.models.calls import ModelCalls
from int_model.strategies.base import register
from int_model.strategies.baselines import OnePass, OnePassConfig, name_by_task
from int_model.strategies.negative_mining.semantic_masks import FoundBoxes
from int_model.strategies.negative_mining.state import Decoded, ImageState


class Sam3Section(Section):
    """SAM 3 asked for the task prompt."""

    threshold: float = Field(
        0.3, ge=0, le=1, description="Stand-in: the library's default; instances below this score are left out."
    )
    max_instances: int = Field(50, ge=1, description="Stand-in: at most so many instances, by score.")


class Sam3Config(OnePassConfig):
    """The options of ``sam3``."""

    sam3: Sam3Section = Sam3Section()


class Sam3Text(OnePass[Sam3Config]):
    """What SAM 3 finds for the task prompt.

    The model gives one score per instance; it stands for the detector's score and for the predicted IoU.
    """

    name = "sam3"

    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        name = task.text.lower()
        images = [state.image for state in states]
        options = self._config.sam3
        answers = calls.find(
            [state.owner for state in states], images, [name] * len(states), threshold=options.threshold
        )
        for state, found in zip(states, answers, strict=True):
            if not found:
                state.reason = f"SAM 3 found no {task.text}"
                continue
            best = found[: options.max_instances]
            boxes = tuple(Detection(instance.box, min(1.0, instance.score), name) for instance in best)
            name_by_task(state, task, (), FoundBoxes(boxes, "sam3"))
            scores = np.array([instance.score for instance in best], dtype=np.float64)
            state.decoded = Decoded((), tuple(instance.soft for instance in best), scores)

    def _decode(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        """The masks came with the boxes."""


register(
    Sam3Text.name,
    "SAM 3 asked for the task prompt: one model, one question, a mask of every instance.",
    Sam3Config,
    Sam3Text,
    needs={"concepts": "SAM 3: use the profile 'sam3', or set concepts.id, for instance to facebook/sam3"},
)
