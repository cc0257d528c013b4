"""How good an adaptation is on held-out examples: with given prompts, and whether clicks leak to other objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from int_model.learning.arms.outlines import Asked, leak_of, overlap
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example
from int_model.learning.prompts import loose_box, positive_point
from int_model.learning.sam import Encoded
from int_model.models.protocols import MaskPrompt

CLICKS = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """One held-out example under one adaptation.

    Attributes:
        unit: what a split keeps together.
        click: mean IoU over single clicks; ``box``: over a loose box each; per label in ``labels``.
        leak: mean IoU of a click's mask with the *other* objects, None where there is one object only.
    """

    unit: str
    click: float
    box: float
    labels: dict[str, float]
    leak: float | None

    @property
    def value(self) -> float:
        """The figure that arms are compared by: the mean of clicks and boxes."""
        return (self.click + self.box) / 2


def ask(example: Example, encoded: Encoded, *, seed: int = 0, clicks: int = CLICKS) -> list[Asked]:
    """The fixed prompts of an example: the same for every arm, fold and session."""
    rng = np.random.default_rng([seed, int(example.digest[:8], 16)])
    found = []
    for target in example.targets:
        one = np.array([1], dtype=np.int64)
        prompts = [MaskPrompt(points=positive_point(target.mask, rng)[None], labels=one) for _ in range(clicks)]
        prompts.append(MaskPrompt(box=loose_box(target.mask, rng)))
        others = tuple(other.mask for other in example.targets if other is not target)
        found += [Asked(encoded, prompt, target.mask, target.label, example.unit, others) for prompt in prompts]
    return found


def score(decoder: AdaptedDecoder, example: Example, encoded: Encoded, *, seed: int = 0) -> Figures:
    """Figures of one held-out example with at least one target."""
    clicks: list[float] = []
    boxes: list[float] = []
    leaks: list[float] = []
    labels: dict[str, list[float]] = {}
    for asked in ask(example, encoded, seed=seed):
        mask = decoder.mask(encoded, asked.prompt, asked.label)
        value = overlap(mask, asked.truth)
        labels.setdefault(asked.label, []).append(value)
        (boxes if asked.prompt.box is not None else clicks).append(value)
        if asked.prompt.box is None and asked.others:
            leaks.append(leak_of(mask, asked.others))
    return Figures(
        example.unit,
        float(np.mean(clicks)),
        float(np.mean(boxes)),
        {label: float(np.mean(values)) for label, values in labels.items()},
        float(np.mean(leaks)) if leaks else None,
    )


def score_all(decoder: AdaptedDecoder, examples: Sequence[Example], encoded: Sequence[Encoded]) -> list[Figures]:
    """Figures of all examples that have targets, in order."""
    pairs = zip(examples, encoded, strict=True)
    return [score(decoder, example, entry) for example, entry in pairs if example.targets]
