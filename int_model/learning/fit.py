"""From examples to an adaptation, one arm at a time; what arms share (slots, cached views) is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from int_model.learning.adaptation import Adaptation, Outline, Probe, Weights, WeightsKind
from int_model.learning.arms.decoder import LowRankDecoder, TunedDecoder
from int_model.learning.arms.outlines import choose_outlines, choose_slots
from int_model.learning.arms.plm import PromptLearning
from int_model.learning.arms.pmm import PointMatching
from int_model.learning.arms.pmm_training import train_refiner
from int_model.learning.arms.tokens import StaticTokens
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example
from int_model.learning.sam import Pause, TrainableSam
from int_model.learning.scoring import ask
from int_model.learning.training import Cache, Schedule, StepDone, Trained, train
from int_model.learning.views import Augmentation
from int_model.learning.where import fit_probe, views_of_label
from int_model.models.adapters.segmenter import HFSamSegmenter

Aside = Callable[[], AbstractContextManager[None]]
"""Makes a block in which others may use the models."""

ArmName = Literal["base", "slots", "outlines", "tokens", "plm", "plm_pmm", "lora", "decoder"]
ARMS: tuple[ArmName, ...] = ("base", "slots", "outlines", "tokens", "plm", "plm_pmm", "lora", "decoder")
"""From the simplest to the one with most parameters."""

UNTRAINED: tuple[ArmName, ...] = ("base", "slots", "outlines")
"""Arms that choose and train no weights."""

TRAINED_FROM = 8
"""Weights are trained from so many images on; below, the choices and the probe only."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How arms are trained.

    Attributes:
        seed: of every draw.
        steps: optimiser steps of a trained arm, or None for what the number of images suggests.
        augmentation: the views.
        rates: learning rate by arm.
    """

    seed: int = 0
    steps: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    rates: Mapping[str, float] = field(
        default_factory=lambda: {"tokens": 1e-2, "plm": 2e-3, "pmm": 1e-3, "lora": 2e-3, "decoder": 5e-4}
    )

    def schedule(self, arm: WeightsKind, images: int) -> Schedule:
        """Steps and rate of an arm on so many images."""
        steps = self.steps or (120 if images < 16 else 240)
        return Schedule(steps=steps, rate=self.rates[arm])


class Fitter:
    """Fits arms on examples over one loaded segmenter; encoded views are shared between arms and folds.

    ``pause`` is called between pieces of work of a fraction of a second, so that others can use the models meanwhile;
    ``aside`` is entered for work of seconds that needs no model.
    """

    def __init__(
        self,
        segmenter: HFSamSegmenter,
        options: FitOptions | None = None,
        pause: Pause | None = None,
        aside: Aside | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.options = options or FitOptions()
        self.pause = pause or (lambda: None)
        self._aside: Aside = aside or nullcontext
        self._base = AdaptedDecoder(segmenter, Adaptation(), self.pause)
        self._cache = Cache(self._base.sam, self.options.augmentation, self.options.seed)

    def fit(
        self,
        arm: ArmName,
        examples: Sequence[Example],
        *,
        known: Mapping[str, Outline] | None = None,
        step_done: StepDone | None = None,
        state: dict[str, Any] | None = None,
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> Adaptation:
        """What an arm learns from examples.

        Args:
            arm: its name.
            examples: at least one with a target.
            known: slots that were chosen already on these examples; chosen anew if None.
            step_done: progress of a training; raising from it stops the fit.
            state: where a training goes on.
            keep: is given a training's state now and then.

        Raises:
            ValueError: no example has a target, or there is no such arm.
        """
        if arm == "base":
            return Adaptation()
        if arm not in ARMS:
            raise ValueError(f"there is no arm '{arm}'; choose one of: {', '.join(ARMS)}")
        if arm == "slots":
            return self._chosen(choose_slots, examples)
        if arm == "outlines":
            return self._chosen(choose_outlines, examples)
        slots = self.slots(examples) if known is None else dict(known)
        labels = sorted({target.label for example in examples for target in example.targets})
        outlines = {label: slots.get(label, Outline(slot=1)) for label in labels}
        sam = TrainableSam(self.segmenter, self.pause)
        kind: WeightsKind = "plm" if arm == "plm_pmm" else arm
        module = make_arm(kind, sam, labels)
        samples = [sample for example in examples for sample in self._cache.samples(example)]

        def slot_of(label: str) -> int:
            return outlines[label].slot or 0

        schedule, seed = self.options.schedule(kind, len({example.unit for example in examples})), self.options.seed
        train(sam, module, samples, slot_of, schedule, seed=seed, state=state, keep=keep, step_done=step_done)
        refiner = None
        if arm == "plm_pmm":
            points = PointMatching(sam.width)
            steps = replace(schedule, rate=self.options.rates["pmm"])
            train_refiner(sam, module, points, samples, slot_of, steps, seed=seed, step_done=step_done)
            refiner = {name: value.detach().cpu().numpy() for name, value in points.state_dict().items()}
        weights = Weights(kind, tensors_of(kind, sam, module), label_order(kind, labels))
        return Adaptation(outlines=outlines, weights=weights, refiner=refiner)

    def _chosen(self, choose: Callable[..., dict[str, Outline]], examples: Sequence[Example]) -> Adaptation:
        """A choice for clicks and one for boxes: the slot that a click means says nothing of a box, and vice versa."""
        asked = self._asked(examples)
        clicks = choose(self._base, [entry for entry in asked if entry.prompt.box is None])
        boxes = choose(self._base, [entry for entry in asked if entry.prompt.box is not None])
        boxed = {label: boxes.get(label, Outline()) for label in sorted({*clicks, *boxes})}
        return Adaptation(outlines=clicks, boxed=boxed)

    def slots(self, examples: Sequence[Example]) -> dict[str, Outline]:
        """The mask slot of each label, where it is clear; one for clicks and boxes alike, as weights are trained."""
        return choose_slots(self._base, self._asked(examples))

    def probes(self, examples: Sequence[Example]) -> dict[str, Probe]:
        """A probe for each label that occurs."""
        samples = [sample for example in examples for sample in self._cache.samples(example)]
        found = {}
        for label in sorted({target.label for example in examples for target in example.targets}):
            views = views_of_label(samples, label)
            with self._aside():
                probe = fit_probe(self._base.sam, views, seed=self.options.seed)
            if probe is not None:
                found[label] = probe
        return found

    def _asked(self, examples: Sequence[Example]) -> list[Any]:
        with_targets = [example for example in examples if example.targets]
        if not with_targets:
            raise ValueError("there is nothing to learn from: no example has an object")
        encoded = self._base.encode([example.image for example in with_targets])
        pairs = zip(with_targets, encoded, strict=True)
        return [entry for example, one in pairs for entry in ask(example, one, seed=self.options.seed + 1)]


def make_arm(arm: str, sam: TrainableSam, labels: Sequence[str]) -> Trained:
    """An untrained arm; a decoder arm takes over the copy's own weights."""
    if arm == "tokens":
        return StaticTokens(sam.width, labels)
    if arm == "plm":
        return PromptLearning(sam.width, labels)
    return LowRankDecoder(sam) if arm == "lora" else TunedDecoder(sam)


def label_order(arm: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of an arm's tokens; none for arms that change the decoder for every label."""
    return tuple(labels) if arm in ("tokens", "plm") else ()


def tensors_of(arm: str, sam: TrainableSam, module: Trained) -> dict[str, NDArray[np.float32]]:
    """What was trained, by name."""
    if isinstance(module, nn.Module):
        kept = module.state_dict()
    else:
        kept = sam.mask_decoder.state_dict()
        if arm == "lora":
            kept = {name: value for name, value in kept.items() if "lora_" in name}
    return {name: value.detach().cpu().float().numpy() for name, value in kept.items()}


def with_probes(adaptation: Adaptation, probes: Mapping[str, Probe]) -> Adaptation:
    """The same with probes."""
    return replace(adaptation, probes=dict(probes))
