"""ProMaC (arXiv 2408.15205), INT's ancestor, as its paper states it: the yardstick that INT is measured against.

The loop is INT's; two things differ. The instance prompt comes from *contrastive decoding* (eqs. 3, 5): the VLM is
asked about the whole image while the logits of the same question about the image without its object are subtracted.
And masks come from the VLM's *one box*: each patch, pasted on black, is segmented inside it (eq. 6), and the patches'
masks are weighted by their meaning (eqs. 7, 8). The released code differs from the paper in ways that defeat it (its
contrast branch never sees the inpainted image; its final choice prefers the smallest mask); those are not repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator

from int_model.core.config import (
    EarlyStopConfig,
    FinalConfig,
    IntConfig,
    LimitsConfig,
    MaskScoreConfig,
    PointPromptsConfig,
    SpatialClipConfig,
    StrategyConfig,
    UpdateConfig,
)
from int_model.core.options import Section
from int_model.core.point_options import PointGeneratorConfig
from int_model.core.prompt_options import NegativeAnswerConfig, QuartersConfig, RegionConfig, VlmConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Detection, Floats, Image, Patch, Progress, Segmentation, SoftMask
from int_model.models.calls import ModelCalls, TextFeatures
from int_model.models.protocols import ContrastiveVisionLanguage
from int_model.point_prompting.role import make_point_prompter
from int_model.strategies.base import check_vlm, register
from int_model.strategies.negative_mining.candidates import CandidateSet, collect_candidates, is_proper
from int_model.strategies.negative_mining.conclude import conclude
from int_model.strategies.negative_mining.contrast import Choice, Contrast
from int_model.strategies.negative_mining.mask_stages import combine, point, update
from int_model.strategies.negative_mining.pipeline import Steps, check_images, finish_iteration, silent
from int_model.strategies.negative_mining.prompt_stages import ask_candidates, remove_candidates, take_candidates
from int_model.strategies.negative_mining.semantic_masks import (
    VLM_BOX_SCORE,
    FoundBoxes,
    fallback_boxes,
    mask_prompts,
    probabilities,
)
from int_model.strategies.negative_mining.state import Decoded, Fused, ImageState, Mined, require, start

if TYPE_CHECKING:
    from int_model.models.suite import ModelSuite

_SETTING = {
    "inpaint": {"first": "union_box_crop", "later": "mask_crop"},  # eq. 4: one inpainting of the whole image
    "clip": {"anchor": "masks"},
    "fuse": {"rule": "wsum"},  # eq. 8
    "switches": {"hcg": True, "psnm": True, "smg": True},
}
_THINNEST = 1.0  # pixels: what a part of the image sees of the box must be wider; the whole image sees all of it


class PromacSection(Section):
    """What ProMaC has and INT has not."""

    scales: tuple[Literal[1, 2, 4], ...] = Field(
        (1, 2), description="Ancestor paper, table 6: the whole and its halves; K = 1 + 4 = 5 patches."
    )
    iterations: int = Field(4, ge=1, le=50, description="Ancestor paper: I = 4 (6 for polyps).")
    alpha: float = Field(
        1.0, ge=0, description="Ancestor paper, eq. 3: weight of the contrast with the inpainted image."
    )
    plausible: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Ancestor code: tokens below this part of the likeliest token's probability are out (computed "
        "there but never applied; eq. 3 names no cut-off). 0: every token may be chosen.",
    )

    @field_validator("scales")
    @classmethod
    def _with_the_whole(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if 1 not in value or len(set(value)) != len(value):
            raise ValueError("give the scale 1, which the last questions are about, and each scale at most once")
        return value


class PromacConfig(StrategyConfig):
    """The options of ``promac``. What it shares with INT has INT's options."""

    promac: PromacSection = PromacSection()
    patches: QuartersConfig = QuartersConfig()
    vlm: VlmConfig = VlmConfig()
    candidates: NegativeAnswerConfig = NegativeAnswerConfig()
    inpaint: RegionConfig = RegionConfig()
    sclip: SpatialClipConfig = SpatialClipConfig()
    ppt: PointGeneratorConfig = PointGeneratorConfig()
    sam: PointPromptsConfig = PointPromptsConfig()
    clip: MaskScoreConfig = MaskScoreConfig()
    update: UpdateConfig = UpdateConfig()
    early_stop: EarlyStopConfig = EarlyStopConfig()
    final: FinalConfig = FinalConfig()
    limits: LimitsConfig = LimitsConfig()


class ProMaC:
    """Prompt-mask cycle generation: one task prompt in, one ``Segmentation`` per image out, of one instance at most."""

    name = "promac"

    def __init__(self, suite: ModelSuite, config: PromacConfig, progress: Progress | None = None) -> None:
        check_vlm(
            suite,
            self.name,
            ContrastiveVisionLanguage,
            "contrastive decoding",
            "choose the strategy 'grounded_sam' or 'vlm_box', or a profile whose model runs on this machine",
        )
        own = {"patches": {"scales": config.promac.scales}, "iterations": {"count": config.promac.iterations}}
        self._suite = suite
        self._config = config
        self._stages = IntConfig.for_stages(config, {**own, **_SETTING})
        self._progress = progress or silent
        self._texts = TextFeatures()
        self._points = make_point_prompter(suite, self._stages)

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        check_images(images)
        config, stages = self._config, self._stages
        calls = ModelCalls(self._suite, len(images), self._texts)
        steps = Steps(self._progress, total=2 + 3 * config.promac.iterations)

        states = [start(i, image, stages) for i, image in enumerate(images)]
        ask_candidates(calls, states, task, stages)  # eq. 2
        steps.done("candidates")

        for i in range(1, config.promac.iterations + 1):
            loop = [state for state in states if state.active]
            if not loop:
                break
            remove_candidates(calls, loop, task, stages)  # eq. 4
            if i > 1:
                ask_again(calls, loop, task, config)  # algorithm 1: candidates anew, with contrast
            steps.done(f"iteration {i}: inpainting")
            decide(calls, loop, task, config)  # eqs. 3, 5
            steps.done(f"iteration {i}: contrastive answers")
            point(calls, loop, self._points)  # eq. 6
            decode_patches(calls, loop, task, config)  # eq. 6
            combine(calls, loop, stages)  # eqs. 7, 8
            for state in loop:
                merge_patches(state)
            update(loop, stages)  # eq. 9
            for state in loop:
                finish_iteration(state, stages)
            steps.done(f"iteration {i}: masks")

        results = [conclude(state, task, stages, calls, self.name) for state in states]  # eq. 10
        steps.finished()
        return results


def ask_again(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: PromacConfig) -> None:
    """The dialogues with all patches, against their inpainted versions; as before where those are as before."""
    todo = [state for state in states if not require(state.removal).reused]
    tokens = (config.vlm.caption_tokens, config.vlm.name_tokens, config.vlm.name_tokens, config.vlm.box_tokens)
    views = [patch.crop(state.image) for state in todo for patch in state.patches]
    answers = calls.contrast(
        [state.owner for state in todo for _ in state.patches],
        views,
        [view for state in todo for view in require(state.removal).patches],
        [task.dialogue] * len(views),
        tokens,
        config.promac.alpha,
        config.promac.plausible,
    )
    for state in todo:
        own, answers = answers[: len(state.patches)], answers[len(state.patches) :]
        frame, rule = calls.suite.vlm.frame, config.candidates.negative_answer
        take_candidates(state, collect_candidates(state.patches, own, task, frame, rule))


def decide(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: PromacConfig) -> None:
    """Eq. 5: A_i^u and B_i^u, from the whole image against the whole inpainted image.

    The name is asked for with the candidates in the question. An answer that is no name gives way to the commonest
    candidate; one that holds no box to the candidates' own boxes (of that name, else of the whole image).
    """
    todo = [state for state in states if state.mined is None or not require(state.removal).reused]
    owners = [state.owner for state in todo]
    images, others = [state.image for state in todo], [require(state.removal).patches[0] for state in todo]
    weight, tokens = (config.promac.alpha, config.promac.plausible), config.vlm
    named = [(task.score_question(state.candidates.names),) for state in todo]
    names = calls.contrast(owners, images, others, named, (tokens.name_tokens,), *weight)
    boxes = calls.contrast(owners, images, others, [(task.box_question,)] * len(todo), (tokens.box_tokens,), *weight)
    for state, (name,), (box,) in zip(todo, names, boxes, strict=True):
        said = collect_candidates(state.patches[:1], [("", name, "", box)], task, calls.suite.vlm.frame)
        chosen = said.names[0] if said.names and is_proper(said.names[0], task) else _commonest(state.candidates)
        state.names = tuple(dict.fromkeys([*state.names, chosen]))
        _note_choice(state, chosen)
        found = said.boxes[0] or _own_box(state.candidates, chosen)
        state.boxes = fallback_boxes(found, state.size)
        if said.boxes[0] is None:
            state.notes.append(
                f"iteration {len(state.iterations) + 1}: the vision-language model's answer holds no box; taken was "
                f"{'the one of a patch' if found else 'the whole image'}"
            )


def _commonest(candidates: CandidateSet) -> str:
    return Counter(c.name for c in candidates.candidates).most_common(1)[0][0]


def _own_box(candidates: CandidateSet, name: str) -> Box | None:
    """The first box that a dialogue gave for that name, from the whole image on; else any."""
    named = {c.patch for c in candidates.candidates if c.name == name}
    boxes = [(k not in named, k, box) for k, box in enumerate(candidates.boxes) if box is not None]
    return min(boxes, key=lambda entry: entry[:2])[2] if boxes else None


def _note_choice(state: ImageState, name: str) -> None:
    """Fill in what the trace says about the prompt; there is no score to show, as the contrast is in the decoding."""
    table, values = np.zeros((len(state.patches), len(state.names))), np.zeros(len(state.patches))
    own = tuple(said or name for said in state.own_names)
    background = state.candidates.environment_of(0, name)
    state.mined = Mined(table, table, Contrast(table, values, own), values, Choice(0, name), background)


def decode_patches(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: PromacConfig) -> None:
    """Eq. 6: the mask of each patch of X_i, pasted on black, inside what the patch sees of the box."""
    seen: list[tuple[ImageState, Patch, Box]] = []
    for state in states:
        whole = require(state.boxes).boxes[0].box
        for patch in state.patches:
            box = whole.intersect(patch.box)
            if box is not None and (patch.scale == 1 or min(box.width, box.height) > _THINNEST):
                seen.append((state, patch, box))
    views = [_on_black(state.current, patch) for state, patch, _ in seen]
    embeddings = calls.encode([state.owner for state, _, _ in seen], views)
    masks: dict[int, list[tuple[Box, SoftMask, float]]] = {state.owner: [] for state in states}
    for (state, patch, box), embedding in zip(seen, embeddings, strict=True):
        points, labels = state.points.points, state.points.labels
        inside = np.array([patch.box.contains(x, y) for x, y in points], dtype=np.bool_)
        prompts = mask_prompts([box], points[inside], labels[inside], config.sam)
        logits, iou = calls.decode_best(
            state.owner, embedding, prompts, state.size, multimask=config.sam.multimask, label=task.text
        )
        layer = probabilities(logits)[0] * patch.box.to_mask(*state.size)  # nothing is known outside the patch
        masks[state.owner].append((box, layer.astype(np.float32), float(iou[0])))
    for state in states:
        own = masks[state.owner]
        source = require(state.boxes).source
        state.boxes = FoundBoxes(tuple(Detection(box, VLM_BOX_SCORE) for box, _, _ in own), source)
        ious: Floats = np.array([iou for _, _, iou in own], dtype=np.float64)
        state.decoded = Decoded((), tuple(layer for _, layer, _ in own), ious)


def _on_black(image: Image, patch: Patch) -> Image:
    canvas = np.zeros_like(image)
    region = patch.box.to_mask(*image.shape[:2])
    canvas[region] = image[region]
    return canvas


def merge_patches(state: ImageState) -> None:
    """The selected patches' masks are views of one thing: from here on they are one mask in one box."""
    fused, decoded, boxes = require(state.fused), require(state.decoded), require(state.boxes)
    chosen = np.flatnonzero(fused.selected)
    layer: SoftMask = np.zeros(state.size, dtype=np.float32)
    for i in chosen:
        layer = np.maximum(layer, decoded.layers[i])
    iou = float(np.average(decoded.predicted_iou[chosen], weights=fused.scores[chosen])) if len(chosen) else 0.0
    corners = np.array([d.box.as_tuple() for d in boxes.boxes])
    around = Box(*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())
    state.boxes = FoundBoxes((Detection(around, boxes.boxes[0].score),), boxes.source)
    state.decoded = Decoded((), (layer,), np.array([iou]))
    state.fused = Fused(np.ones(1), np.array([bool(fused.mask.any())]), fused.soft, fused.mask)


register(ProMaC.name, "ProMaC, INT's ancestor: contrastive decoding, one box, one instance.", PromacConfig, ProMaC)
