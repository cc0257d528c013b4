"""The INT loop (arXiv 2501.18753), for lists of images, in the paper's order.

Each stage takes all images that are still in the loop and asks each model once; the stages are in ``prompt_stages``
and ``mask_stages``. What cannot change is computed once: the dialogues, the probabilities under the original patches,
the segmenter's embedding, text features, a name's boxes. X' is made anew only where its region moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Progress, Segmentation, check_image
from int_model.models.calls import ModelCalls, TextFeatures
from int_model.models.protocols import AnswerScoring
from int_model.point_prompting.role import make_point_prompter
from int_model.strategies.base import check_vlm, register
from int_model.strategies.negative_mining.conclude import conclude
from int_model.strategies.negative_mining.final_choice import has_settled, is_unchanged
from int_model.strategies.negative_mining.instance_contrast import weigh_instances
from int_model.strategies.negative_mining.mask_stages import combine, decode, locate, point, update
from int_model.strategies.negative_mining.prompt_stages import ask_candidates, mine, remove_candidates, take_answers
from int_model.strategies.negative_mining.state import ImageState, start

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


class IntPipeline:
    """Instance-specific negative mining: one task prompt in, one ``Segmentation`` per image out."""

    name = "int"

    def __init__(self, suite: ModelSuite, config: IntConfig, progress: Progress | None = None) -> None:
        if config.switches.psnm:
            check_vlm(
                suite,
                self.name,
                AnswerScoring,
                "the probabilities of answers",
                "choose the strategy 'grounded_sam' or 'vlm_box', a profile whose model runs on this machine, or set "
                "switches.psnm to false",
            )
        self._suite = suite
        self._config = config
        self._progress = progress or silent
        self._texts = TextFeatures()
        self._points = make_point_prompter(suite, config)

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        check_images(images)
        config, calls = self._config, ModelCalls(self._suite, len(images), self._texts)
        steps = Steps(self._progress, total=2 + (config.instances.contrast != "off") + 4 * config.iterations.count)

        states = [start(i, image, config) for i, image in enumerate(images)]  # X_1..X_K
        ask_candidates(calls, states, task, config)  # HCG: names, environments, boxes of every patch
        steps.done("candidates")

        for i in range(1, config.iterations.count + 1):
            loop = [state for state in states if state.active]
            if not loop:
                break
            if config.candidates.refresh == "every" and i > 1:
                ask_candidates(calls, loop, task, config)

            if config.switches.psnm:  # the name whose probability falls most when the candidate region is gone
                remove_candidates(calls, loop, task, config)  # eq. 3
                steps.done(f"iteration {i}: inpainting")
                mine(calls, loop, task, config)  # eqs. 4-8
                steps.done(f"iteration {i}: scoring")
            else:
                take_answers(loop, config)

            locate(calls, loop, task, config)  # eq. 9
            point(calls, loop, self._points)  # eq. 10
            steps.done(f"iteration {i}: boxes and points")
            decode(calls, loop, task, config)  # eq. 10
            combine(calls, loop, config)  # eqs. 11, 12
            update(loop, config)  # eq. 13
            for state in loop:
                finish_iteration(state, config)
            steps.done(f"iteration {i}: masks")

        if config.instances.contrast != "off":
            weigh_instances(calls, states, task, config)
            steps.done("instances")
        results = [conclude(state, task, config, calls, self.name) for state in states]  # eq. 14
        steps.finished()
        return results


def finish_iteration(state: ImageState, config: IntConfig) -> None:
    """Note the iteration in the trace; leave the loop where the soft mask has settled."""
    state.iterations.append(state.record())
    unchanged = config.early_stop.rule == "unchanged" and is_unchanged(state.iterations, config.inpaint.reuse_iou)
    if unchanged or has_settled([iteration.soft_mask for iteration in state.iterations], config.early_stop):
        state.stopped = True
        state.notes.append(f"settled after {len(state.iterations)} iterations")


def check_images(images: Sequence[Image]) -> None:
    """Raise ``ValueError`` that names the position of the first entry that is no image."""
    for i, image in enumerate(images):
        try:
            check_image(image)
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from error


class Steps:
    """Counts stages for the progress callback."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self, stage: str) -> None:
        self._done += 1
        self._progress(self._done, self._total, stage)

    def finished(self) -> None:
        self._progress(self._total, self._total, "done")


def silent(_done: int, _total: int, _stage: str) -> None:
    """The progress callback of a caller that gave none."""


register(
    IntPipeline.name,
    "INT: an instance-specific prompt mined from the task prompt, then semantic masks.",
    IntConfig,
    IntPipeline,
)
