"""PPT (arXiv 2404.11998) as a strategy: text -> signed points -> mask, for names and referring expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from int_model.core.point_options import HypothesesConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Detection, Progress
from int_model.models.calls import ModelCalls
from int_model.point_prompting.ppt import grounder_of
from int_model.point_prompting.role import PointPrompts
from int_model.strategies.base import register
from int_model.strategies.baselines import OnePass, OnePassConfig, name_by_task
from int_model.strategies.negative_mining.semantic_masks import FoundBoxes
from int_model.strategies.negative_mining.state import Decoded, ImageState

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


class PptConfig(OnePassConfig):
    """The options of ``ppt``."""

    ppt: HypothesesConfig = HypothesesConfig()


class PointPrompting(OnePass[PptConfig]):
    """What the trained point generator finds for the task prompt.

    The generator's confidence stands for the detector's score. Where no point is positive, the image holds nothing of
    that name, and the result says so.
    """

    name = "ppt"

    def __init__(self, suite: ModelSuite, config: PptConfig, progress: Progress | None = None) -> None:
        super().__init__(suite, config, progress)
        self._grounder = grounder_of(suite, config.ppt)

    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        name = task.text.lower()
        owners, images = [state.owner for state in states], [state.image for state in states]
        found, embeddings = self._grounder.points(calls, owners, images, [name] * len(states))
        for state, points, known in zip(states, found, embeddings, strict=True):
            if not points.present:
                state.reason = (
                    f"nothing in the image is '{task.text}': the surest point has a confidence of "
                    f"{points.presence:.2f}, below {self._config.ppt.positive:.2f}"
                )
                continue
            embedding = known if known is not None else calls.encode([state.owner], [state.image])[0]
            readings = self._grounder.hypotheses(
                calls, state.owner, embedding, points, state.size, most=self._config.ppt.hypotheses, label=task.text
            )
            boxes = [(Box.of_mask(reading.logits > 0), reading) for reading in readings]
            usable = [(box, reading) for box, reading in boxes if box is not None]
            if not usable:
                state.reason = f"the segmenter found no pixels for '{task.text}'"
                continue
            detections = tuple(
                Detection(box, float(reading.points.confidence[reading.points.labels == 1].mean()), name)
                for box, reading in usable
            )
            name_by_task(state, task, (), FoundBoxes(detections, "ppt"))
            state.points = PointPrompts(points.points, points.labels)
            layers = tuple((1 / (1 + np.exp(-reading.logits))).astype(np.float32) for _, reading in usable)
            state.decoded = Decoded((), layers, np.array([reading.iou for _, reading in usable], dtype=np.float64))
            if points.left_out:
                told = ", ".join(f"{count} {reason}" for reason, count in sorted(points.left_out.items()))
                state.notes.append(f"points of the generator that the segmenter was not given: {told}")

    def _decode(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        """The masks came with the points."""


register(
    PointPrompting.name,
    "PPT: a trained point generator gives the segmenter positive and negative points for a name or an expression.",
    PptConfig,
    PointPrompting,
)
