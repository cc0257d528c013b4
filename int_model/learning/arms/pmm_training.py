"""Training of the point matching module on top of a frozen adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from int_model.core.types import Floats
from int_model.learning.arms.pmm import (
    POINTS,
    Conditioned,
    PointMatching,
    condition,
    matching_loss,
    resampled,
    rings_of,
    signed_area,
)
from int_model.learning.sam import TrainableSam
from int_model.learning.training import Sample, Schedule, StepDone, Trained, draw_prompts

_DENSE = 4 * POINTS
_MOST_WARP = 3.0  # cells


def train_refiner(
    sam: TrainableSam,
    arm: Trained,
    module: PointMatching,
    samples: Sequence[Sample],
    slot_of: Callable[[str], int],
    schedule: Schedule,
    *,
    seed: int = 0,
    step_done: StepDone | None = None,
) -> list[float]:
    """Train the module in place on rings that the frozen decoder draws, or on warped true ones where it is far off."""
    truths = {id(sample): _largest(rings_of(sample.truth.cpu().numpy(), 0.5)) for sample in samples}
    usable = [sample for sample in samples if truths[id(sample)] is not None]
    if not usable:
        raise ValueError("there is nothing to learn from: no object is large enough for an outline")
    parameters = list(module.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=schedule.decay)
    losses = []
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step)
        rng = np.random.default_rng([seed, 1, step])
        picked = [usable[int(i)] for i in rng.integers(0, len(usable), schedule.batch)]
        prompts = draw_prompts(picked, rng, clicks=rng.random() < schedule.clicks)
        labels = [sample.target.label for sample in picked]
        with torch.no_grad():
            given = condition(sam, [s.encoded for s in picked], prompts, slot_of(labels[0]), arm.adjust(labels))
        true = [np.asarray(truths[id(sample)]) for sample in picked]
        starts = np.stack([_start(given, row, ring, rng) for row, ring in enumerate(true)])
        dense = np.stack([resampled(ring, _DENSE) for ring in true])
        moved = module(torch.from_numpy(starts).float(), given.tokens.detach(), given.fine.detach())
        loss = matching_loss(moved, torch.from_numpy(dense).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if step_done is not None:
            step_done(step + 1, schedule.steps)
    return losses


def _largest(rings: Sequence[Floats]) -> Floats | None:
    large = [ring for ring in rings if len(ring) > 3]
    return max(large, key=lambda ring: abs(signed_area(ring))) if large else None


def _start(given: Conditioned, row: int, true: Floats, rng: np.random.Generator) -> Floats:
    """The ring of the current prediction if it is about the right one, else the true ring, smoothly warped."""
    own = _largest(rings_of(given.logits[row].detach().cpu().numpy(), 0.0))
    if own is not None:
        ratio = abs(signed_area(own)) / max(1e-6, abs(signed_area(true)))
        near = np.linalg.norm(own.mean(axis=0) - true.mean(axis=0)) < 0.35 * np.sqrt(abs(signed_area(true)))
        if 0.5 < ratio < 2 and near:
            return resampled(own, POINTS)
    even = resampled(true, POINTS)
    along = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    reach = rng.uniform(0.5, _MOST_WARP)
    waves = [np.cos(along * k + rng.uniform(0, 6.3)) * rng.normal(0, 1) / k for k in (1, 2, 3, 4)]
    outward = even - even.mean(axis=0)
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
    return np.asarray(even + reach * np.sum(waves, axis=0)[:, None] * outward)
