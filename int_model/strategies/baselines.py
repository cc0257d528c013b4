"""The one-call strategies that INT is measured against: the VLM's own box, or a detector asked the task prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from int_model.core.config import DetectorConfig, FuseConfig, IntConfig, LimitsConfig, MultimaskConfig, StrategyConfig
from int_model.core.prompt_options import BoxQuestionConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Candidate, Detection, Image, Progress, Segmentation
from int_model.models.calls import ModelCalls
from int_model.strategies.base import register
from int_model.strategies.negative_mining.candidates import NO_ENVIRONMENT, CandidateSet, parse_boxes
from int_model.strategies.negative_mining.conclude import conclude
from int_model.strategies.negative_mining.contrast import Choice, Contrast
from int_model.strategies.negative_mining.mask_stages import combine, decode
from int_model.strategies.negative_mining.pipeline import check_images
from int_model.strategies.negative_mining.semantic_masks import (
    VLM_BOX_SCORE,
    BoxQuery,
    FoundBoxes,
    fallback_boxes,
    find_boxes,
)
from int_model.strategies.negative_mining.state import ImageState, Mined, start

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

_ONE_PASS = {"switches": {"hcg": False, "psnm": False, "smg": False}, "iterations": {"count": 1}}


class OnePassConfig(StrategyConfig):
    """The options of every strategy without a loop."""

    fuse: FuseConfig = FuseConfig()
    limits: LimitsConfig = LimitsConfig()


ConfigT = TypeVar("ConfigT", bound=OnePassConfig)


class OnePass(ABC, Generic[ConfigT]):
    """Boxes from one call, the segmenter's best mask in each, no loop."""

    name = ""

    def __init__(self, suite: ModelSuite, config: ConfigT, progress: Progress | None = None) -> None:
        self._suite = suite
        self._config = config
        self._stages = IntConfig.for_stages(config, _ONE_PASS)
        self._progress = progress

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        check_images(images)
        calls = ModelCalls(self._suite, len(images))
        states = [start(i, image, self._stages) for i, image in enumerate(images)]
        self._place_boxes(calls, states, task)
        self._tell(1, "boxes")
        found = [state for state in states if state.active]
        self._decode(calls, found, task)
        combine(calls, found, self._stages)
        for state in found:
            state.iterations.append(state.record())
        results = [conclude(state, task, self._stages, calls, self.name) for state in states]
        self._tell(2, "masks")
        return results

    @abstractmethod
    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        """Give every image its boxes, or a reason why it has none."""

    def _decode(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        """The segmenter's masks in the boxes."""
        decode(calls, states, task, self._stages)

    def _tell(self, done: int, stage: str) -> None:
        if self._progress is not None:
            self._progress(done, 2, stage)


class VlmBoxConfig(OnePassConfig):
    """The options of ``vlm_box``."""

    vlm: BoxQuestionConfig = BoxQuestionConfig()
    sam: MultimaskConfig = MultimaskConfig()


class VlmBox(OnePass[VlmBoxConfig]):
    """One question to the VLM for a box, then the segmenter; the whole image if the answer holds no box."""

    name = "vlm_box"

    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        answers = calls.dialogue(
            [state.owner for state in states],
            [state.image for state in states],
            [(task.box_question,)] * len(states),
            (self._config.vlm.box_tokens,),
        )
        for state, (answer,) in zip(states, answers, strict=True):
            boxes = parse_boxes(answer, self._suite.vlm.frame, *state.size)
            found = FoundBoxes(tuple(Detection(box, VLM_BOX_SCORE) for box in boxes), "vlm_box")
            name_by_task(state, task, (answer,), found if boxes else fallback_boxes(None, state.size))
            if not boxes:
                state.notes.append("the vision-language model's answer holds no box; the whole image was taken")


class GroundedSamConfig(OnePassConfig):
    """The options of ``grounded_sam``."""

    detector: DetectorConfig = DetectorConfig()
    sam: MultimaskConfig = MultimaskConfig()


class GroundedSam(OnePass[GroundedSamConfig]):
    """The detector asked for the task prompt, then the segmenter."""

    name = "grounded_sam"

    def _place_boxes(self, calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt) -> None:
        queries = [BoxQuery(state.owner, state.image, task.text.lower()) for state in states]
        answers = find_boxes(calls, queries, task.text.lower(), self._config.detector)
        for state, found in zip(states, answers, strict=True):
            if found is None:
                state.reason = f"the detector found no {task.text}"
            else:
                name_by_task(state, task, (), found)


def name_by_task(state: ImageState, task: TaskPrompt, answers: tuple[str, ...], boxes: FoundBoxes) -> None:
    """Fill in what the loop would have found out: the task prompt is the name."""
    name, nothing = task.text.lower(), np.zeros((1, 1))
    first = boxes.boxes[0].box if answers and boxes.source == "vlm_box" else None
    candidate = Candidate(0, name, NO_ENVIRONMENT, box=first, answers=answers)
    state.found, state.names = CandidateSet((candidate,), (name,), (first,), ("",)), (name,)
    change = Contrast(nothing, np.zeros(1), (name,))
    state.mined = Mined(nothing, nothing, change, np.zeros(1), Choice(0, name), NO_ENVIRONMENT)
    state.boxes = boxes


register(VlmBox.name, "Baseline: the vision-language model's own box, segmented.", VlmBoxConfig, VlmBox)
register(
    GroundedSam.name, "Baseline: the detector asked for the task prompt, segmented.", GroundedSamConfig, GroundedSam
)
