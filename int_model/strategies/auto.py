"""``auto``: the detector asked for the task prompt first, INT only where its answer is in doubt (our addition).

INT costs many times what ``grounded_sam`` does and pays where a detector does not understand the task prompt, so the
cheap answer is kept where its witnesses agree. The threshold is fitted on labelled examples
(``int_model.evaluation.doubt``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from int_model.core.config import IntConfig
from int_model.core.options import Section, fitting
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Floats, Image, IterationTrace, Progress, Segmentation
from int_model.models.calls import ModelCalls
from int_model.strategies.base import register
from int_model.strategies.baselines import GroundedSam, GroundedSamConfig
from int_model.strategies.negative_mining.patches import make_patches
from int_model.strategies.negative_mining.pipeline import IntPipeline, check_images
from int_model.strategies.negative_mining.semantic_masks import cut_out, masked
from int_model.strategies.negative_mining.state import shrink

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite


class AutoSection(Section):
    """When the cheap answer is not enough, and what INT may cost then."""

    threshold: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Stand-in (ours): INT is asked where the confidence in the answer of `grounded_sam` is below this. "
        "Fit it on labelled images: `evaluate --strategies grounded_sam,int,auto` prints what fits.",
    )
    budget: int = Field(
        0,
        ge=0,
        description="Stand-in (ours): most model calls that INT may take for an image; it does with fewer iterations "
        "and views, and is left out where not even one view and iteration fit. 0: no bound.",
    )


class AutoConfig(IntConfig):
    """The options of ``auto``: INT's, and when it is asked."""

    auto: AutoSection = AutoSection()


class Auto:
    """``grounded_sam``, then INT for the images whose answer is in doubt."""

    name = "auto"

    def __init__(self, suite: ModelSuite, config: AutoConfig, progress: Progress | None = None) -> None:
        self._suite = suite
        self._config = config
        self._cheap = GroundedSam(suite, GroundedSamConfig().merged(fitting(GroundedSamConfig, config.model_dump())))
        affordable = within_budget(config, config.auto.budget)
        self._dear = None if affordable is None else IntPipeline(suite, affordable, progress)

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``. The trace's ``witnesses`` say what the choice went by."""
        check_images(images)
        first = self._cheap.segment(images, task)
        calls = ModelCalls(self._suite, len(images))
        known = witnesses(calls, images, first, task, self._config.limits.max_side)
        doubted = [i for i, own in enumerate(known) if own["confidence"] < self._config.auto.threshold]
        second: dict[int, Segmentation] = {}
        if self._dear is not None and doubted:
            second = dict(zip(doubted, self._dear.segment([images[i] for i in doubted], task), strict=True))
        return [
            self._told(second.get(i), answer, known[i], calls.counts(i), i in doubted) for i, answer in enumerate(first)
        ]

    def _told(
        self,
        second: Segmentation | None,
        first: Segmentation,
        known: Mapping[str, float],
        extra: Mapping[str, int],
        doubted: bool,
    ) -> Segmentation:
        """The answer that counts, with the cost of both ways."""
        chosen = first if second is None else second
        parts = [first.trace.calls, extra, *([] if second is None else [second.trace.calls])]
        counts = {role: sum(part.get(role, 0) for part in parts) for role in sorted({r for p in parts for r in p})}
        seconds = dict(chosen.trace.seconds)
        if second is not None:
            for role, spent in first.trace.seconds.items():
                seconds[role] = seconds.get(role, 0.0) + spent
        sure = f"confidence {known['confidence']:.2f} in the detector's answer"
        note = f"{sure}: kept" if not doubted else f"{sure}: INT was asked"
        if doubted and second is None:
            note = f"{sure}, but INT does not fit into the budget of {self._config.auto.budget} calls"
        trace = replace(
            chosen.trace,
            strategy=self.name,
            calls=counts,
            seconds=seconds,
            notes=(note, *chosen.trace.notes),
            witnesses=known,
        )
        return replace(chosen, trace=trace)


def witnesses(
    calls: ModelCalls, images: Sequence[Image], answers: Sequence[Segmentation], task: TaskPrompt, max_side: int
) -> list[dict[str, float]]:
    """How far each answer of ``grounded_sam`` may be trusted: three witnesses and their geometric mean, ``confidence``.

    ``detector``: the best box's score. ``segmenter``: the predicted IoU of that box's mask. ``clip``: whether what was
    found looks more like the task prompt than what is left of the image; 0.5 if equally. All 0 where nothing was found.
    (The agreement of the box with its mask's own box was tried, too: better answers agreed less, see the evaluation.)
    """
    found = [answer.trace.iterations[0] if answer.instances else None for answer in answers]
    looks = _looks(calls, images, found, task, max_side)
    out = []
    for iteration, look in zip(found, looks, strict=True):
        if iteration is None:
            out.append(dict.fromkeys(("detector", "segmenter", "clip", "confidence"), 0.0))
            continue
        best = max(range(len(iteration.boxes)), key=lambda k: iteration.boxes[k].score)
        own = {
            "detector": iteration.boxes[best].score,
            "segmenter": float(np.clip(iteration.predicted_iou[best], 0.0, 1.0)),
            "clip": look,
        }
        out.append({**own, "confidence": float(np.prod(list(own.values())) ** (1 / len(own)))})
    return out


def _looks(
    calls: ModelCalls,
    images: Sequence[Image],
    found: Sequence[IterationTrace | None],
    task: TaskPrompt,
    max_side: int,
) -> list[float]:
    """The witness ``clip``, from one call for all images."""
    owners: list[int] = []
    views: list[Image] = []
    for owner, (image, iteration) in enumerate(zip(images, found, strict=True)):
        if iteration is not None and iteration.mask.any():
            work = shrink(image, max_side)
            owners += [owner, owner]
            views += [cut_out(work, iteration.mask), masked(work, ~iteration.mask)]
    looks = [0.0] * len(images)
    if views:
        features = calls.embed_images(owners, views)
        scale = calls.suite.text_image.logit_scale
        for k in range(0, len(views), 2):
            text = calls.embed_text(owners[k], (task.text.lower(),))
            gap: Floats = scale * np.asarray(features[k] @ text - features[k + 1] @ text, dtype=np.float64)
            looks[owners[k]] = float(1 / (1 + np.exp(-np.clip(gap, -30, 30))))
    return looks


def within_budget(config: IntConfig, budget: int) -> IntConfig | None:
    """The configuration with as many iterations and views as fit into ``budget`` calls, or None; 0 is no bound."""
    if budget == 0:
        return config
    for scales in (config.patches.scales, (1, 2), (1,)):
        if not set(scales) <= set(config.patches.scales):
            continue
        for count in range(config.iterations.count, 0, -1):
            fitting_one = config.merged({"patches": {"scales": scales}, "iterations": {"count": count}})
            if most_calls(fitting_one) <= budget:
                return fitting_one
    return None


def most_calls(config: IntConfig) -> int:
    """The most model calls that INT can take for an image under ``config``."""
    scales = config.patches.scales if config.switches.hcg else (1,)
    views = len(make_patches(64, 64, scales, config.patches.quarters))
    boxes, count = config.detector.max_boxes, config.iterations.count
    dialogues = 4 * views * (count if config.candidates.refresh == "every" else 1)
    asked = views * (count if config.vlm.input == "reweighted" else 1) + views * count
    filled = views + (count - 1) * (views if config.inpaint.later == "per_patch_box" else 1)
    mining = asked + filled if config.switches.psnm else 0
    queries = {"name": 3 * count, "surest": 2 * count + 2, "candidates": 2 * views + 2}[config.detector.query]
    scoring = (boxes + 1) * count + 4 + count if config.switches.smg else 0
    encoding = count if config.sam.input == "reweighted" else 1
    instances = 3 * boxes if config.instances.contrast != "off" else 0
    votes = (views + 2 * views) * count
    return dialogues + mining + queries + encoding + boxes * count + scoring + instances + votes


register(Auto.name, "The detector first, INT where its answer is in doubt.", AutoConfig, Auto)
