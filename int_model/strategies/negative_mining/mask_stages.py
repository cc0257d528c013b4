"""The second half of an iteration: boxes, points, masks, scores, fusion, next image (paper, SMG, eqs. 9-13).

Each public function is one stage, as in ``prompt_stages``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Floats, Image, union
from int_model.models.calls import ModelCalls
from int_model.models.protocols import MaskPrompt
from int_model.strategies.negative_mining.semantic_masks import (
    BoxQuery,
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
)
from int_model.strategies.negative_mining.spatial_clip import map_to_points, sentences, similarity_map
from int_model.strategies.negative_mining.state import Decoded, Fused, Points, Work, need


def locate(calls: ModelCalls, works: Sequence[Work], task: TaskPrompt, config: IntConfig) -> None:
    """Eq. 9: boxes of all instances of the name, asked once per image and name; then the rest of the ladder."""
    asked = [work for work in works if need(work.mined).choice.name not in work.boxes_by_name]
    queries = [BoxQuery(work.owner, work.image, need(work.mined).choice.name) for work in asked]
    answers = find_boxes(calls, queries, task.text.lower(), config.detector)
    for work, query, found in zip(asked, queries, answers, strict=True):
        work.boxes_by_name[query.name] = found
    for work in works:
        choice = need(work.mined).choice
        found = work.boxes_by_name[choice.name]
        work.boxes = found or fallback_boxes(work.candidates.boxes[choice.patch], work.size)


def point(calls: ModelCalls, works: Sequence[Work], config: IntConfig) -> None:
    """Eq. 10, the points: where X_i looks like the name and not like its environment."""
    if not config.switches.smg or config.sam.points == "none":
        return
    sclip = config.sclip
    features = calls.embed_patches([work.owner for work in works], [work.current for work in works])
    for work, grid in zip(works, features, strict=True):
        mined = need(work.mined)
        name, environment, empty = (
            calls.embed_text(work.owner, sentences(text, sclip.templates))
            for text in (mined.choice.name, mined.background, "")
        )
        background = environment[None] if sclip.use_background else None
        similarity = similarity_map(
            grid, name[None], background, empty, normalise=sclip.normalise, strategy=sclip.strategy
        )
        points, labels = map_to_points(
            similarity,
            work.size,
            down_sample=sclip.down_sample,
            threshold=sclip.attn_thr,
            max_points=sclip.max_points,
        )
        work.points = Points(points, labels, similarity)


def decode(calls: ModelCalls, works: Sequence[Work], config: IntConfig) -> None:
    """Eq. 10, the masks: the best alternative for each box; not decoded again where image and prompts are the same."""
    sam = config.sam
    fresh = [work for work in works if work.embedding is None or sam.input == "reweighted"]
    images = [work.image if sam.input == "original" else work.current for work in fresh]
    for work, embedding in zip(fresh, calls.encode([work.owner for work in fresh], images), strict=True):
        work.embedding, work.decoded = embedding, None
    for work in works:
        boxes = [detection.box for detection in need(work.boxes).boxes]
        prompts = mask_prompts(boxes, work.points.points, work.points.labels, sam)
        key = tuple(_prompt_key(prompt) for prompt in prompts)
        if work.decoded is None or work.decoded.key != key:
            embedding = need(work.embedding)
            logits, iou = calls.decode_best(work.owner, embedding, prompts, work.size, multimask=sam.multimask)
            work.decoded = Decoded(key, tuple(probabilities(logits)), iou)


def _prompt_key(prompt: MaskPrompt) -> tuple[object, ...]:
    return (prompt.box, prompt.points.tobytes(), prompt.labels.tobytes())


def combine(calls: ModelCalls, works: Sequence[Work], config: IntConfig) -> None:
    """Eqs. 11 and 12: the semantic score of every mask that has a pixel, selection, fusion to S_i and M_i."""
    for work, scores in zip(works, _scores(calls, works, config), strict=True):
        layers = need(work.decoded).layers
        usable = scores > 0
        selected: NDArray[np.bool_] = np.zeros(len(layers), dtype=np.bool_)
        if usable.any():
            threshold = config.clip.select_threshold if config.switches.smg else 0.0
            selected = select_masks(scores, threshold) & usable
        soft, mask = fuse(layers, scores, selected, work.size, config.fuse.rule)
        work.fused = Fused(scores, selected, soft, mask)


def _scores(calls: ModelCalls, works: Sequence[Work], config: IntConfig) -> list[Floats]:
    """Scores ``[N]`` per image, 0 for masks without a pixel; all masked regions of all images in one CLIP call."""
    tables: list[Floats] = []
    regions: list[tuple[Work, Image]] = []
    compared: list[tuple[Work, Floats, list[int]]] = []
    for work in works:
        masks = [layer > 0.5 for layer in need(work.decoded).layers]
        filled = [i for i, mask in enumerate(masks) if mask.any()]
        scores: Floats = np.zeros(len(masks))
        scores[filled] = 1.0
        tables.append(scores)
        if len(filled) > 1 and config.switches.smg:  # a single mask has nothing to be compared with
            show = masked if config.clip.view == "image" else cut_out
            regions += [(work, show(work.current, masks[i])) for i in filled]
            regions.append((work, masked(work.current, ~union(work.size, masks))))
            compared.append((work, scores, filled))
    if not regions:
        return tables
    features = calls.embed_images([work.owner for work, _ in regions], [image for _, image in regions])
    for work, scores, filled in compared:
        own, features = features[: len(filled) + 1], features[len(filled) + 1 :]
        cosines = (own @ calls.embed_text(work.owner, (need(work.mined).choice.name,))).astype(np.float64)
        anchor = float(cosines[-1]) if config.clip.anchor == "background" else None
        scores[filled] = semantic_scores(cosines[:-1], anchor)
    return tables


def update(works: Sequence[Work], config: IntConfig) -> None:
    """Eq. 13: X_{i+1}; unchanged where nothing was segmented."""
    for work in works:
        fused = need(work.fused)
        if fused.mask.any():
            work.current = reweight(work.image, work.current, fused.soft, config.update.w, config.update.rule)
