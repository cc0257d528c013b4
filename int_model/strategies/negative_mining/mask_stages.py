"""The second half of an iteration: boxes, points, masks, scores, fusion, next image (paper, SMG, eqs. 9-13).

Each public function is one stage, as in ``prompt_stages``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Floats, Image, union
from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt
from int_model.point_prompting.role import PointPrompter, PointQuery
from int_model.strategies.negative_mining.contrast import Choice
from int_model.strategies.negative_mining.semantic_masks import (
    BoxQuery,
    FoundBoxes,
    above_gap,
    cut_out,
    fallback_boxes,
    find_boxes,
    fuse,
    mask_prompts,
    masked,
    probabilities,
    reweight,
    select_masks,
    semantic_scores,
    softmax_scores,
)
from int_model.strategies.negative_mining.state import Decoded, Fused, ImageState, require


def locate(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Eq. 9: boxes of all instances of the name, asked once per image and name; then the rest of the ladder."""
    if config.detector.query != "name":
        _locate_surest(calls, states, task, config)
        return
    asked = [state for state in states if require(state.mined).choice.name not in state.boxes_by_name]
    queries = [BoxQuery(state.owner, state.image, require(state.mined).choice.name) for state in asked]
    answers = find_boxes(calls, queries, task.text.lower(), config.detector)
    for state, query, found in zip(asked, queries, answers, strict=True):
        state.boxes_by_name[query.name] = found
    for state in states:
        choice = require(state.mined).choice
        found = state.boxes_by_name[choice.name]
        state.boxes = found or fallback_boxes(state.candidates.boxes[choice.patch], state.size)


def _locate_surest(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Boxes of whichever query the detector is surest of: the name and the task prompt, or all names and that."""
    prompt, every = task.text.lower(), config.detector.query == "candidates"
    open_ = [
        BoxQuery(state.owner, state.image, query)
        for state in states
        for query in dict.fromkeys([*(state.names if every else (require(state.mined).choice.name,)), prompt])
        if query not in state.boxes_by_name
    ]
    by_owner = {state.owner: state for state in states}
    for query, found in zip(open_, find_boxes(calls, open_, None, config.detector), strict=True):
        by_owner[query.owner].boxes_by_name[query.name] = found
    for state in states:
        mined = require(state.mined)
        known: list[tuple[str, FoundBoxes]] = []
        for name in dict.fromkeys([mined.choice.name, *(state.names if every else ()), prompt]):
            found = state.boxes_by_name[name]
            known += [] if found is None else [(name, found)]
        if not known:
            state.boxes = fallback_boxes(state.candidates.boxes[mined.choice.patch], state.size)
            continue
        name, state.boxes = max(known, key=lambda entry: max(box.score for box in entry[1].boxes))  # first of equals
        if name not in state.names:
            state.boxes = FoundBoxes(state.boxes.boxes, "task_prompt")
        elif name != mined.choice.name:
            _rename(state, name)


def _rename(state: ImageState, name: str) -> None:
    """Another candidate takes the place of the mined name, in the first patch that was called it."""
    mined = require(state.mined)
    patch = state.own_names.index(name) if name in state.own_names else mined.choice.patch
    background = state.candidates.environment_of(patch, name)
    state.mined = replace(mined, choice=Choice(patch, name), background=background)


def point(calls: ModelCalls, states: Sequence[ImageState], prompter: PointPrompter | None) -> None:
    """Eq. 10, the points: where X_i looks like the name and not like its environment."""
    if prompter is None:
        return
    chosen = [require(state.mined) for state in states]
    queries = [
        PointQuery(state.owner, state.current, mined.choice.name, mined.background)
        for state, mined in zip(states, chosen, strict=True)
    ]
    for state, found in zip(states, prompter.prompt(calls, queries), strict=True):
        state.points = found


def decode(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Eq. 10, the masks: the best alternative for each box; not decoded again where image and prompts are the same."""
    sam = config.sam
    fresh = [state for state in states if state.embedding is None or sam.input == "reweighted"]
    images = [state.image if sam.input == "original" else state.current for state in fresh]
    for state, embedding in zip(fresh, calls.encode([state.owner for state in fresh], images), strict=True):
        state.embedding, state.decoded = embedding, None
    for state in states:
        boxes = [detection.box for detection in require(state.boxes).boxes]
        prompts = mask_prompts(boxes, state.points.points, state.points.labels, sam)
        key = tuple(_prompt_key(prompt) for prompt in prompts)
        if state.decoded is None or state.decoded.key != key:
            embedding = require(state.embedding)
            logits, iou = calls.decode_best(
                state.owner, embedding, prompts, state.size, multimask=sam.multimask, label=task.text
            )
            state.decoded = Decoded(key, tuple(probabilities(logits)), iou)


def _prompt_key(prompt: MaskPrompt) -> tuple[object, ...]:
    return (prompt.box, prompt.points.tobytes(), prompt.labels.tobytes())


def combine(calls: ModelCalls, states: Sequence[ImageState], config: IntConfig) -> None:
    """Eqs. 11 and 12: the semantic score of every mask that has a pixel, selection, fusion to S_i and M_i."""
    for state, scores in zip(states, _scores(calls, states, config), strict=True):
        layers = require(state.decoded).layers
        usable = scores > 0
        selected: NDArray[np.bool_] = np.zeros(len(layers), dtype=np.bool_)
        if usable.any():
            selected = _select(scores, require(state.boxes), config) & usable
        soft, mask = fuse(layers, scores, selected, state.size, config.fuse.rule)
        state.fused = Fused(scores, selected, soft, mask)


def _select(scores: Floats, boxes: FoundBoxes, config: IntConfig) -> NDArray[np.bool_]:
    """The masks to keep, ``bool [N]``, by the rule of the options."""
    if not config.switches.smg:
        return select_masks(scores, 0.0)
    if config.clip.rule == "gap":
        return above_gap(scores)
    if config.clip.rule == "joint":
        sure = np.array([detection.score for detection in boxes.boxes])
        return above_gap(scores * sure / max(float(sure.max()), 1e-9))
    return select_masks(scores, config.clip.select_threshold)


def _scores(calls: ModelCalls, states: Sequence[ImageState], config: IntConfig) -> list[Floats]:
    """Scores ``[N]`` per image, 0 for masks without a pixel; all masked regions of all images in one CLIP call."""
    tables: list[Floats] = []
    regions: list[tuple[ImageState, Image]] = []
    compared: list[tuple[ImageState, Floats, list[int]]] = []
    for state in states:
        masks = [layer > 0.5 for layer in require(state.decoded).layers]
        filled = [i for i, mask in enumerate(masks) if mask.any()]
        scores: Floats = np.zeros(len(masks))
        scores[filled] = 1.0
        tables.append(scores)
        if len(filled) > 1 and config.switches.smg:  # a single mask has nothing to be compared with
            show = masked if config.clip.view == "image" else cut_out
            image = state.current if config.clip.input == "reweighted" else state.image
            regions += [(state, show(image, masks[i])) for i in filled]
            regions.append((state, masked(image, ~union(state.size, masks))))
            compared.append((state, scores, filled))
    if not regions:
        return tables
    features = calls.embed_images([state.owner for state, _ in regions], [image for _, image in regions])
    for state, scores, filled in compared:
        own, features = features[: len(filled) + 1], features[len(filled) + 1 :]
        cosines = (own @ calls.embed_text(state.owner, (require(state.mined).choice.name,))).astype(np.float64)
        if config.clip.rule == "softmax":
            scores[filled] = softmax_scores(cosines[:-1], calls.suite.text_image.logit_scale)
            continue
        anchor = float(cosines[-1]) if config.clip.anchor == "background" else None
        scores[filled] = semantic_scores(cosines[:-1], anchor)
    return tables


def update(states: Sequence[ImageState], config: IntConfig) -> None:
    """Eq. 13: X_{i+1}; unchanged where nothing was segmented."""
    for state in states:
        fused = require(state.fused)
        if fused.mask.any():
            state.current = reweight(state.image, state.current, fused.soft, config.update.w, config.update.rule)
