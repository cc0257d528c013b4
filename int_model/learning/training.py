"""The loop that trains any arm: cached features, simulated prompts, AdamW with warm-up and cosine, resumable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from int_model.core.types import Mask, union
from int_model.learning.examples import Example, Target
from int_model.learning.losses import mask_loss
from int_model.learning.prompts import click_prompt, loose_box
from int_model.learning.sam import Adjust, Encoded, TrainableSam
from int_model.learning.views import Augmentation, views_of
from int_model.models.protocols import MaskPrompt

StepDone = Callable[[int, int], None]
"""Called after each step with (done, total); raising from it stops the training."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        rate: highest learning rate.
        decay: AdamW's weight decay.
        batch: objects per step.
        warm_up: steps until the highest rate.
        clicks: share of the steps whose prompts are clicks; the others' are loose boxes.
    """

    steps: int = 120
    rate: float = 5e-4
    decay: float = 1e-3
    batch: int = 8
    warm_up: int = 10
    clicks: float = 0.6

    def factor(self, step: int) -> float:
        """The share of ``rate`` at a step: linear warm-up, then a cosine to 2 %."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        along = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One object of one encoded view: what a step is made of."""

    encoded: Encoded
    target: Target
    others: Mask
    truth: Tensor
    inside: Tensor


class Trained(Protocol):
    """What an arm gives the loop: its parameters and how they change the decoding of a label's prompts."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is trained."""
        ...

    def adjust(self, labels: Sequence[str]) -> Adjust | None:
        """How prompt tokens of these labels change, or None."""
        ...

    def penalty(self) -> Tensor | None:
        """An extra term of the loss after the last forward pass, or None."""
        ...


@dataclass(slots=True, eq=False)
class Cache:
    """Encoded views of examples. Encoding is what costs most, so that all arms and folds share one cache."""

    sam: TrainableSam
    how: Augmentation
    seed: int = 0
    _kept: dict[str, list[Sample]] = field(default_factory=dict)

    def samples(self, example: Example) -> list[Sample]:
        """All objects of all views of an example, encoded when first asked for."""
        if example.digest not in self._kept:
            rng = np.random.default_rng([self.seed, int(example.digest[:8], 16)])
            views = [view for view in views_of(example, self.how, rng) if view.targets]
            encoded = self.sam.encode([view.image for view in views]) if views else []
            self._kept[example.digest] = [
                sample for view, entry in zip(views, encoded, strict=True) for sample in self._objects(view, entry)
            ]
        return self._kept[example.digest]

    def _objects(self, view: Example, encoded: Encoded) -> list[Sample]:
        inside = self.sam.inside(encoded)
        return [
            Sample(
                encoded,
                target,
                union(view.size, [other.mask for other in view.targets if other is not target]),
                self.sam.low_resolution(target.mask, encoded),
                inside,
            )
            for target in view.targets
        ]


def train(
    sam: TrainableSam,
    arm: Trained,
    samples: Sequence[Sample],
    slot_of: Callable[[str], int],
    schedule: Schedule,
    *,
    seed: int = 0,
    state: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    keep_every: int = 50,
    step_done: StepDone | None = None,
) -> list[float]:
    """Train an arm's parameters in place.

    Every step draws its objects and prompts from a generator seeded by (seed, step), so a training that is resumed
    from a kept state goes on to the same weights as one that was never interrupted.

    Args:
        sam: the decoder.
        arm: what is trained.
        samples: objects of encoded views.
        slot_of: the mask slot of a label.
        schedule: how long and how fast.
        seed: of all draws.
        state: where to go on, as ``keep`` was given it.
        keep: is given the state every ``keep_every`` steps.
        keep_every: steps between two states.
        step_done: progress; raising from it stops the training.

    Returns:
        The loss of each step done here.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there is nothing to learn from: no example has an object in view")
    parameters = list(arm.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=schedule.decay)
    first = 0 if state is None else _resume(state, optimiser, parameters)
    losses = []
    for step in range(first, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step)
        loss = _loss(sam, arm, samples, slot_of, schedule, np.random.default_rng([seed, step]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if keep is not None and (step + 1) % keep_every == 0 and step + 1 < schedule.steps:
            held = [parameter.detach().clone() for parameter in parameters]
            keep({"step": step + 1, "optimiser": copy.deepcopy(optimiser.state_dict()), "parameters": held})
        if step_done is not None:
            step_done(step + 1, schedule.steps)
    return losses


def _resume(state: dict[str, Any], optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> int:
    """Take over a kept state; the step to go on with."""
    optimiser.load_state_dict(state["optimiser"])
    with torch.no_grad():
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(value)
    return int(state["step"])


def _loss(
    sam: TrainableSam,
    arm: Trained,
    samples: Sequence[Sample],
    slot_of: Callable[[str], int],
    schedule: Schedule,
    rng: np.random.Generator,
) -> Tensor:
    picked = [samples[int(i)] for i in rng.integers(0, len(samples), schedule.batch)]
    prompts = draw_prompts(picked, rng, clicks=rng.random() < schedule.clicks)
    labels = [sample.target.label for sample in picked]
    slots = sorted({slot_of(label) for label in labels})
    logits, _ = sam.logits([sample.encoded for sample in picked], prompts, slots, arm.adjust(labels))
    rows = torch.arange(len(picked))
    columns = torch.tensor([slots.index(slot_of(label)) for label in labels])
    loss = mask_loss(
        logits[rows, columns],
        torch.stack([sample.truth for sample in picked]),
        torch.stack([sample.inside for sample in picked]),
        torch.tensor([sample.target.weight for sample in picked], device=logits.device),
    )
    penalty = arm.penalty()
    return loss if penalty is None else loss + penalty


def draw_prompts(picked: Sequence[Sample], rng: np.random.Generator, *, clicks: bool) -> list[MaskPrompt]:
    """One prompt per object, all of one make-up: a click each (a third of the time with one beside), or a box each."""
    if not clicks:
        return [MaskPrompt(box=loose_box(sample.target.mask, rng)) for sample in picked]
    negatives = int(rng.random() < 1 / 3)
    prompts = [click_prompt(s.target, s.others, rng, negatives=negatives) for s in picked]
    fewest = min(len(prompt.labels) for prompt in prompts)
    return [MaskPrompt(points=prompt.points[:fewest], labels=prompt.labels[:fewest]) for prompt in prompts]
