"""A contrast per instance (our addition): is the name less likely once this instance alone is gone?

Eq. 4 asks it of a patch. Here it is asked of each mask of the final iteration, in a view around it that holds little
else: a mask without which the name stays as likely does not show what the name names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt, inpaint_negative, inpaint_positive
from int_model.core.types import Box, Floats, Image, IterationTrace, Mask
from int_model.models.calls import ModelCalls
from int_model.strategies.negative_mining.conclude import choose_final
from int_model.strategies.negative_mining.inpainting import diagonal, grow, paste_back
from int_model.strategies.negative_mining.semantic_masks import above_gap, fuse
from int_model.strategies.negative_mining.state import ImageState, require


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What surrounds mask ``index`` of an image's final iteration, and what is removed from it."""

    state: ImageState
    index: int
    image: Image
    mask: Mask


def weigh_instances(calls: ModelCalls, states: Sequence[ImageState], task: TaskPrompt, config: IntConfig) -> None:
    """Ask for every mask of the final iterations that have several; keep the drops, and by option select by them."""
    for state in states:
        choose_final(state, config)
    views = [view for state in states if state.final is not None for view in _views(state, config)]
    owners = [view.state.owner for view in views]
    chosen = [_final(view.state) for view in views]
    filled = calls.inpaint(
        owners,
        [view.image for view in views],
        [view.mask for view in views],
        [inpaint_positive(iteration.background) for iteration in chosen],
        [inpaint_negative(iteration.winner_name, task) for iteration in chosen],
    )
    removed = [paste_back(view.image, picture, view.mask) for view, picture in zip(views, filled, strict=True)]
    questions = [task.score_question(view.state.names) for view in views]
    names = [view.state.names for view in views]
    tables = calls.score(
        owners * 2, [*(view.image for view in views), *removed], questions * 2, names * 2, config.score.reduce
    )
    drops: dict[int, Floats] = {}
    for view, before, after in zip(views, tables[: len(views)], tables[len(views) :], strict=True):
        iteration = _final(view.state)
        column = view.state.names.index(iteration.winner_name)
        own = drops.setdefault(view.state.owner, np.zeros(len(iteration.instance_masks)))
        own[view.index] = max(0.0, float(before[column] - after[column]))
    for state in {view.state.owner: view.state for view in views}.values():
        _keep(state, drops[state.owner], config)


def _final(state: ImageState) -> IterationTrace:
    return state.iterations[require(state.final)]


def _views(state: ImageState, config: IntConfig) -> list[_View]:
    iteration = _final(state)
    masks = [(i, mask) for i, mask in enumerate(iteration.instance_masks) if mask.any()]
    if len(masks) < 2 or iteration.winner_name not in state.names:
        return []  # one mask has nothing to be compared with
    views = []
    for i, mask in masks:
        tight = Box.of_mask(mask)
        around = None if tight is None else tight.enlarge(config.instances.margin).clip(*state.size)
        if around is None:
            continue
        x1, y1, x2, y2 = (round(value) for value in around.as_tuple())
        image = np.ascontiguousarray(state.image[y1:y2, x1:x2])
        region = grow(mask[y1:y2, x1:x2], config.inpaint.dilation * diagonal(*image.shape[:2]))
        if region.any() and not region.all():
            views.append(_View(state, i, image, region))
    return views


def _keep(state: ImageState, drops: Floats, config: IntConfig) -> None:
    """Note the drops relative to the largest; where there is one, select by them if the options say so."""
    if drops.max() <= config.score.eps:
        state.notes.append("no instance's removal makes the name less likely; the selection stays")
        return
    relative = drops / drops.max()
    iteration: IterationTrace = dataclasses.replace(_final(state), instance_contrast=relative)
    if config.instances.contrast in ("select", "both"):
        filled = np.array([bool(mask.any()) for mask in iteration.instance_masks])
        selected = above_gap(relative) & filled
        layers = [mask.astype(np.float32) for mask in iteration.instance_masks]
        scores = np.where(selected, np.maximum(iteration.mask_scores, relative), iteration.mask_scores)
        soft, mask = fuse(layers, scores, selected, state.size, config.fuse.rule)
        iteration = dataclasses.replace(iteration, selected=selected, mask_scores=scores, soft_mask=soft, mask=mask)
    state.iterations[require(state.final)] = iteration
