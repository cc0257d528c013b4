"""What the curriculum is: stages, their lengths, what each draws from, and every rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from int_model.learning.ppt.losses import LossWeights
from int_model.learning.ppt.proposals import Clicking
from int_model.learning.ppt.pseudo_masks import Filters
from int_model.learning.ppt.rounds import Selection

STAGES = ("object-centric", "composites", "referring")


@dataclass(frozen=True, slots=True)
class Plan:
    """A training.

    Attributes:
        steps: of the three stages.
        order: ``curriculum``: stage after stage; ``mixed``: all three from the start; ``first``: stage 1 alone, for as
            many steps as all three.
        second: shares of stage 1 and 2 in the draws of the second stage.
        third: shares of stage 1, 2 and 3 in the draws of the third stage, against forgetting.
        batch: pairs per step.
        rate: highest learning rate of AdamW.
        decay: its weight decay.
        warm_up: steps until the highest rate.
        ema: decay of the teacher's moving average.
        every: steps between two selections of referring pairs.
        positives: target points on the object.
        negatives: target points beside it; 0 trains a generator without negative points.
        most: points of a sign that the segmenter is given, in training as at use.
        through: pairs per step whose mask loss goes through the segmenter, which costs most of a step.
        composites: composed images.
        absent: share of stage-1 draws whose text names something else.
        seed: of all draws.
        weights: of the losses.
        clicking: how proposals are made.
        filters: of the pseudo-masks of stage 1.
        selection: of the pairs of stage 3.
    """

    steps: tuple[int, int, int] = (10_000, 10_000, 20_000)
    order: Literal["curriculum", "mixed", "first"] = "curriculum"
    second: tuple[float, float] = (0.35, 0.65)
    third: tuple[float, float, float] = (0.2, 0.3, 0.5)
    batch: int = 32
    rate: float = 1e-4
    decay: float = 1e-2
    warm_up: int = 200
    ema: float = 0.999
    every: int = 2_000
    positives: int = 6
    negatives: int = 6
    most: int = 8
    through: int = 32
    composites: int = 4_000
    absent: float = 0.15
    seed: int = 0
    weights: LossWeights = field(default_factory=LossWeights)
    clicking: Clicking = field(default_factory=Clicking)
    filters: Filters = field(default_factory=Filters)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        if min(self.steps) < 0 or not sum(self.steps):
            raise ValueError("a curriculum has at least one step, and no stage fewer than none")
        if self.batch < 1 or self.positives < 1 or self.negatives < 0 or self.every < 1:
            raise ValueError("batch, positives and every are at least 1, negatives at least 0")

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(self.steps)

    def stage(self, step: int) -> int:
        """The stage of a step: 1, 2 or 3."""
        if self.order == "first":
            return 1
        if self.order == "mixed":
            return 3
        return 1 + sum(step >= end for end in (self.steps[0], self.steps[0] + self.steps[1]))

    def shares(self, step: int) -> tuple[float, float, float]:
        """From which stage's samples a step draws."""
        return {1: (1.0, 0.0, 0.0), 2: (*self.second, 0.0), 3: self.third}[self.stage(step)]

    def selects(self, step: int) -> bool:
        """Whether referring pairs are selected anew before a step."""
        if self.stage(step) != 3:
            return False
        start = 0 if self.order == "mixed" else self.steps[0] + self.steps[1]
        return (step - start) % self.every == 0

    def factor(self, step: int) -> float:
        """The share of ``rate`` at a step: linear warm-up, then a cosine to 2 %."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        along = (step - self.warm_up) / max(1, self.total - self.warm_up)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


NANO = Plan(
    steps=(250, 800, 450),
    batch=16,
    rate=6e-4,
    warm_up=100,
    ema=0.995,
    every=150,
    positives=4,
    negatives=4,
    most=3,
    through=2,
    composites=150,
    clicking=Clicking(grid=6),
    filters=Filters(grid=4),
)
"""For the bundled miniature models, whose segmenter was trained with up to three points; some ten minutes on a core."""
