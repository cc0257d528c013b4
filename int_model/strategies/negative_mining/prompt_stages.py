"""The first half of an iteration: candidates, inpainting, contrast, running scores (paper, HCG, PSNM, PNM).

Each public function is one stage. It takes all images of the micro-batch that are still in the loop, asks each model
once, and leaves its result in the images' ``ImageState``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt, inpaint_negative, inpaint_positive
from int_model.core.types import Floats, Image, Mask, Patch
from int_model.models.calls import ModelCalls
from int_model.strategies.negative_mining.candidates import CandidateSet, collect_candidates
from int_model.strategies.negative_mining.contrast import (
    Choice,
    Contrast,
    accumulate,
    among,
    contrast,
    evidence,
    leaders,
    settle,
    tally,
    vocabulary_change,
)
from int_model.strategies.negative_mining.inpainting import (
    diagonal,
    grow,
    image_mask,
    mask_iou,
    on_canvas,
    paste_back,
    patch_masks,
)
from int_model.strategies.negative_mining.state import ImageState, Mined, Removal, require

# ------------------------------------------------------------------ HCG


def ask_candidates(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """One dialogue with every patch of every image: caption, name, environment, box."""
    tokens = (config.vlm.caption_tokens, config.vlm.name_tokens, config.vlm.name_tokens, config.vlm.box_tokens)
    owners = [state.owner for state in states for _ in state.patches]
    views = [patch.crop(_vlm_image(state, config)) for state in states for patch in state.patches]
    answers = calls.dialogue(owners, views, [task.dialogue] * len(views), tokens)
    for state in states:
        own, answers = answers[: len(state.patches)], answers[len(state.patches) :]
        frame = calls.suite.vlm.frame
        found = collect_candidates(state.patches, own, task, frame, config.candidates.negative_answer)
        take_candidates(state, found)


def take_candidates(state: ImageState, found: CandidateSet) -> None:
    """Keep what the dialogues gave; a later dialogue that gives nothing leaves the earlier candidates."""
    if not found.names:
        if state.found is None:
            state.found, state.reason = found, found.reason
        return
    if state.found is None or found.candidates != state.found.candidates:
        state.outputs_original = None
    state.found = found
    state.names = tuple(dict.fromkeys([*state.names, *found.names]))


def _vlm_image(state: ImageState, config: IntConfig) -> Image:
    return state.image if config.vlm.input == "original" else state.current


# ------------------------------------------------------------------ PSNM: inpainting


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """What to remove: one mask per patch (``per_patch_box``) or one for the image, and the whole of it."""

    mode: str
    masks: list[Mask]
    whole: Mask


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    owner: int
    image: Image
    mask: Mask
    positive: str
    negative: str


def remove_candidates(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Eq. 3: X'_k, all regions of all images in one call of the inpainter."""
    jobs: list[_Job] = []
    plans: list[tuple[ImageState, _Region]] = []
    for state in states:
        region = _region(state, config)
        if _may_reuse(state, region, config):
            last = require(state.removal)
            state.removal = Removal(last.mode, last.region, last.patches, last.touched, reused=True)
            continue
        plans.append((state, region))
        image = _vlm_image(state, config)
        pieces = [patch.crop(image) for patch in state.patches] if region.mode == "per_patch_box" else [image]
        for k, (piece, mask) in enumerate(zip(pieces, region.masks, strict=True)):
            name, environment = _inpaint_names(state, k)
            prompts = inpaint_positive(environment), inpaint_negative(name, task)
            jobs.append(_Job(state.owner, piece, mask, *prompts))
    results = _inpaint(calls, jobs)
    for state, region in plans:
        own, results = results[: len(region.masks)], results[len(region.masks) :]
        removed = own if region.mode == "per_patch_box" else [patch.crop(own[0]) for patch in state.patches]
        image = _vlm_image(state, config)
        touched = [not np.array_equal(patch.crop(image), x) for patch, x in zip(state.patches, removed, strict=True)]
        state.removal = Removal(region.mode, region.whole, tuple(removed), np.array(touched, dtype=np.bool_))


def _region(state: ImageState, config: IntConfig) -> _Region:
    boxes, dilation = state.candidates.boxes, config.inpaint.dilation
    mode = config.inpaint.later if state.iterations else config.inpaint.first
    if mode == "per_patch_box":
        own = config.inpaint
        masks = patch_masks(state.patches, boxes, dilation, without_box=own.without_box, max_part=own.max_part)
        return _Region(mode, masks, on_canvas(state.size, state.patches, masks))
    if mode == "union_box_crop":
        whole = image_mask(state.size, boxes, dilation)
    elif (last := require(state.fused).mask).any():
        whole = grow(last, dilation * diagonal(*state.size))
    else:  # nothing was segmented: the winning patch's box, else every box
        winner = boxes[require(state.mined).choice.patch]
        whole = image_mask(state.size, [winner] if winner else boxes, dilation)
    return _Region(mode, [whole], whole)


def _may_reuse(state: ImageState, region: _Region, config: IntConfig) -> bool:
    """Whether the last X' still serves: made from the same image, in the same way, of nearly the same region."""
    last = state.removal
    if last is None or last.mode != region.mode or config.vlm.input == "reweighted":
        return False
    return mask_iou(last.region, region.whole) > config.inpaint.reuse_iou


def _inpaint_names(state: ImageState, k: int) -> tuple[str, str]:
    """Name and environment for the inpainter's prompts: the last winner's, or at first the patch's own."""
    if state.mined is not None:
        return state.mined.choice.name, state.mined.background
    name = state.own_names[k] or state.names[0]
    return name, state.candidates.environment_of(k, name)


def _inpaint(calls: ModelCalls, jobs: Sequence[_Job]) -> list[Image]:
    """The jobs' images without their regions. Nothing to remove: the image as it is; everything: black."""
    results = [np.zeros_like(job.image) if job.mask.all() else job.image for job in jobs]
    partial = [j for j, job in enumerate(jobs) if job.mask.any() and not job.mask.all()]
    filled = calls.inpaint(
        [jobs[j].owner for j in partial],
        [jobs[j].image for j in partial],
        [jobs[j].mask for j in partial],
        [jobs[j].positive for j in partial],
        [jobs[j].negative for j in partial],
    )
    for j, picture in zip(partial, filled, strict=True):
        results[j] = paste_back(jobs[j].image, picture, jobs[j].mask)
    return results


# ------------------------------------------------------------------ PSNM and PNM: the instance prompt


def mine(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Eqs. 4-8: the contrast of every patch, the running scores, the instance prompt A_i^u."""
    _query_originals(calls, states, task, config)
    _query_inpainted(calls, states, task, config)
    for state in states:
        p_original, p_inpainted = _tables(state, config)
        change = contrast(p_original, p_inpainted, state.names, state.own_names)  # eqs. 4, 5
        deciding = _deciding(state, config.pnm.least_share)
        own = [name if decides else None for name, decides in zip(state.own_names, deciding, strict=True)]
        values = evidence(among(change, deciding), state.names, own, config.pnm)
        progressive = config.switches.pnm
        before = state.mined.running if state.mined is not None and progressive else None
        running = accumulate(before, values, config.score.eps)  # eqs. 7, 8
        tied = leaders(running, change, state.names, config.pnm.key)  # eq. 6
        choice = tied[0] if len({c.name for c in tied}) == 1 else _vote(calls, state, tied)
        background = state.candidates.environment_of(choice.patch, choice.name)
        state.mined = Mined(p_original, p_inpainted, change, running, choice, background)


def _deciding(state: ImageState, least_share: float) -> NDArray[np.bool_]:
    """The patches that may decide, ``bool [K]``: all at first, later those that hold enough of the last mask."""
    mask = state.fused.mask if state.fused is not None else None
    if mask is None or not mask.any():
        return np.ones(len(state.patches), dtype=np.bool_)
    held = np.array([int(patch.crop(mask).sum()) for patch in state.patches])
    return np.asarray(held >= least_share * int(mask.sum()), dtype=np.bool_)


def take_answers(states: Sequence[ImageState], config: IntConfig) -> None:
    """PSNM off: the name that the VLM gave the whole image, else (or by option) the commonest."""
    for state in states:
        own = state.own_names
        commonest = Counter(name for name in own if name is not None).most_common(1)[0][0]
        whole = config.candidates.without_contrast == "whole" and state.patches[0].scale == 1
        name = (own[0] if whole else None) or commonest
        choice = Choice(own.index(name), name)
        table, values = np.zeros((len(own), len(state.names))), np.zeros(len(own))
        change = Contrast(table, values, tuple(answer or name for answer in own))
        background = state.candidates.environment_of(choice.patch, name)
        state.mined = Mined(table, table, change, values, choice, background)


def _query_originals(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """The VLM's output under the original patches; once per image, unless what is asked or shown has changed."""
    todo = [state for state in states if state.outputs_original is None or config.vlm.input == "reweighted"]
    queries = [
        _Query(state, k, patch.crop(_vlm_image(state, config))) for state in todo for k, patch in _numbered(state)
    ]
    outputs = _query(calls, queries, task, config)
    for state in todo:
        state.outputs_original, outputs = outputs[: len(state.patches)], outputs[len(state.patches) :]
        state.outputs_inpainted = None


def _query_inpainted(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """The same under the inpainted patches. Where nothing was removed the output is the same and is not asked for."""
    todo = [state for state in states if state.outputs_inpainted is None or not require(state.removal).reused]
    queries = [
        _Query(state, k, require(state.removal).patches[k])
        for state in todo
        for k, _ in _numbered(state)
        if require(state.removal).touched[k]
    ]
    for state in todo:
        state.outputs_inpainted = list(require(state.outputs_original))
    for query, output in zip(queries, _query(calls, queries, task, config), strict=True):
        require(query.state.outputs_inpainted)[query.k] = output


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    """The question about patch ``k`` of an image, shown as ``view``."""

    state: ImageState
    k: int
    view: Image


def _numbered(state: ImageState) -> list[tuple[int, Patch]]:
    return list(enumerate(state.patches))


def _query(
    calls: ModelCalls, queries: Sequence[_Query], task: TaskPrompt, config: IntConfig
) -> list[NDArray[np.floating]]:
    """Per query the probabilities of all names ``[U]``, or in the vocabulary domain the distributions ``[T, V]``.

    The question, with all candidate names, is the same for a patch and its inpainted version; so is the caption.
    """
    owners, views = [query.state.owner for query in queries], [query.view for query in queries]
    questions = [
        task.score_question(q.state.names, q.state.candidates.captions[q.k] if config.score.with_caption else None)
        for q in queries
    ]
    if config.score.domain == "vocab":
        answers = [_forced_answer(query.state, query.k) for query in queries]
        return list(calls.answer_distributions(owners, views, questions, answers))
    return list(calls.score(owners, views, questions, [query.state.names for query in queries], config.score.reduce))


def _forced_answer(state: ImageState, k: int) -> str:
    return state.own_names[k] or state.names[0]


def _tables(state: ImageState, config: IntConfig) -> tuple[Floats, Floats]:
    """The outputs under X_k and X'_k as two tables ``float64 [K, U]``; in the vocabulary domain D is in one column."""
    before, after = require(state.outputs_original), require(state.outputs_inpainted)
    if config.score.domain == "candidates":
        return np.stack(before).astype(np.float64), np.stack(after).astype(np.float64)
    p_original = np.zeros((len(before), len(state.names)))
    p_inpainted = p_original.copy()
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        column = state.names.index(_forced_answer(state, k))
        change = vocabulary_change(old, new, config.score.step)
        p_original[k, column], p_inpainted[k, column] = change
    return p_original, p_inpainted


def _vote(calls: ModelCalls, state: ImageState, tied: Sequence[Choice]) -> Choice:
    """Between equal scores, as when the VLM is blind to the region: its own answers, weighted by CLIP."""
    own = state.own_names
    features = calls.embed_images([state.owner] * len(own), [patch.crop(state.image) for patch in state.patches])
    texts = np.stack([calls.embed_text(state.owner, (_forced_answer(state, k),)) for k in range(len(own))])
    choice = settle(tied, tally(own, np.sum(features * texts, axis=1, dtype=np.float64)))
    names = ", ".join(dict.fromkeys(c.name for c in tied))
    state.notes.append(f"iteration {len(state.iterations) + 1}: {names} tied; the patches' vote chose {choice.name}")
    return choice
