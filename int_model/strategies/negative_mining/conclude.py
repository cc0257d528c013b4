"""From an image's iterations to its ``Segmentation``: final mask, instances, scores, trace (paper eq. 14)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from int_model.core.config import IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Instance, IterationTrace, Mask, Segmentation, SoftMask, Trace, union
from int_model.masks.post_processing import distinct_masks, trusted
from int_model.models.calls import ModelCalls
from int_model.strategies.negative_mining.final_choice import closest_to_mean, instance_score
from int_model.strategies.negative_mining.state import ImageState, enlarge


def choose_final(state: ImageState, config: IntConfig) -> None:
    """Eq. 14: which iteration is the answer, if there is any."""
    if not state.iterations:
        return
    nearest, distances = closest_to_mean([iteration.soft_mask for iteration in state.iterations])
    state.final = nearest if config.final.rule == "closest_to_mean" else len(state.iterations) - 1
    for i, distance in enumerate(distances):
        state.iterations[i] = dataclasses.replace(state.iterations[i], distance=float(distance))


def conclude(state: ImageState, task: TaskPrompt, config: IntConfig, calls: ModelCalls, strategy: str) -> Segmentation:
    """The result for one image, at its full size. Says why if there is no instance."""
    if state.final is None:
        choose_final(state, config)
    final = state.final
    trace = Trace(
        task=task.text,
        strategy=strategy,
        patches=state.patches,
        candidates=state.found.candidates if state.found else (),
        names=state.names,
        iterations=tuple(state.iterations),
        final_iteration=None if final is None else final + 1,
        calls=calls.counts(state.owner),
        seconds=dict(sorted(calls.seconds.items())),
        notes=tuple(state.notes),
        size=state.size,
    )
    if final is None:
        return Segmentation(state.full_size, task.text, (), 0.0, trace, reason=state.reason)
    chosen = state.iterations[final]
    found = _instances(state, chosen, config)
    instances, score = trusted(found, config.abstain.min_score)
    return Segmentation(
        size=state.full_size,
        task=task.text,
        instances=instances,
        score=score,
        trace=trace,
        name=chosen.winner_name,
        soft_mask=enlarge(chosen.soft_mask, state.full_size),
        reason="" if instances else _reason(chosen, score, config),
        whole=_whole(state, chosen, found, instances),
    )


def _whole(
    state: ImageState, chosen: IterationTrace, found: Sequence[Instance], kept: Sequence[Instance]
) -> Mask | None:
    """M of the chosen iteration, as eq. 14 has it; less the instances that nobody trusts, if there are such."""
    if not kept:
        return None
    mask: Mask = enlarge(chosen.mask, state.full_size) > 0.5
    if len(kept) < len(found):
        dropped = [instance.mask for instance in found if not any(instance is other for other in kept)]
        mask &= ~union(state.full_size, dropped) | union(state.full_size, [instance.mask for instance in kept])
    return mask


def _reason(chosen: IterationTrace, score: float, config: IntConfig) -> str:
    if not chosen.mask.any():
        return f"the segmenter found no pixels for '{chosen.winner_name}'"
    return f"the best score, {score:.2f}, is below {config.abstain.min_score:.2f}"


def _instances(state: ImageState, chosen: IterationTrace, config: IntConfig) -> list[Instance]:
    """The selected masks of the final iteration that are objects of their own, best first: a view of its mask M."""
    mean: SoftMask = np.mean([iteration.soft_mask for iteration in state.iterations], axis=0, dtype=np.float32)
    contrast = chosen.instance_contrast if config.instances.contrast in ("score", "both") else None
    picked = [i for i in np.flatnonzero(chosen.selected) if chosen.instance_masks[i].any()]
    masks = [chosen.instance_masks[i] for i in picked]
    scores = [
        instance_score(
            chosen.boxes[i].score,
            float(chosen.predicted_iou[i]),
            float(chosen.mask_scores[i]),
            float(mean[chosen.instance_masks[i]].mean()),
            *((float(contrast[i]),) if contrast is not None else ()),
        )
        for i in picked
    ]
    instances: list[Instance] = []
    for j in distinct_masks(masks, scores, config.fuse.duplicate_iou, config.fuse.duplicate_cover):
        full = enlarge(masks[j], state.full_size) > 0.5
        if full.any():
            instances.append(Instance.of_mask(full, chosen.winner_name, scores[j]))
    return instances
