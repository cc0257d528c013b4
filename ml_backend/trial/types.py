"""What a trial is made of: sides, images, what each side found in each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from int_model.core.types import Image, Mask

MOST_IMAGES = 50
MOST_SIDES = 4
SHOWN_SIDE = 720
"""Longer side in pixels of the pictures and masks that a trial keeps; figures are of the full size."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to annotate; "" stands for what the project says itself."""

    prompt: str = ""
    strategy: str = ""

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.prompt or 'the project’s prompts'}{f', {self.strategy}' if self.strategy else ''}"


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What is tried.

    Attributes:
        project: Label Studio's id.
        sides: 1 to `MOST_SIDES` different ones.
        images: how many, 1 to `MOST_IMAGES`.
        view: of the Data Manager to choose from; None for all tasks.
        annotated: only tasks that have an annotation.
        seed: of the choice: the same seed gives the same images while the project's tasks stay the same.

    Raises:
        ValueError: too many sides or images, or two sides are the same.
    """

    project: int
    sides: tuple[Side, ...]
    images: int = 10
    view: int | None = None
    annotated: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.images <= MOST_IMAGES:
            raise ValueError(f"a trial has from 1 to {MOST_IMAGES} images, not {self.images}")
        if not 1 <= len(self.sides) <= MOST_SIDES:
            raise ValueError(f"a trial has from 1 to {MOST_SIDES} sides, not {len(self.sides)}")
        if len(set(self.sides)) != len(self.sides):
            raise ValueError("two sides of the trial are the same; give each another prompt or strategy")


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One region: its label, score in [0, 1], and mask ``bool [h, w]``, of the image as shown."""

    label: str
    score: float
    mask: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one side found in one image.

    Attributes:
        regions: what it would draw, whatever the project's score threshold.
        seconds: from the request to the answer; a result that was known takes none.
        error: why there is none, or "".
        figures: ``iou``, ``dice`` and ``hce`` of all regions together, where the task is annotated.
    """

    regions: tuple[Region, ...] = ()
    seconds: float = 0.0
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """One image of the trial.

    Attributes:
        task: Label Studio's id.
        address: of the task in Label Studio.
        image: ``uint8 [h, w, 3]``, at most `SHOWN_SIDE`, or None where it cannot be had.
        truth: what people drew, ``bool [h, w]``, or None if nobody annotated the task.
        outcomes: of each side, in their order.
    """

    task: int
    address: str
    image: Image | None
    truth: Mask | None
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one side over the annotated images: mean and 95 % interval, and the same of the difference.

    ``difference`` is this side minus the first one, on the same images; None for the first.
    """

    mean: tuple[float, float, float]
    difference: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A trial that is done: `comparisons` by figure, one per side; empty without annotated images."""

    request: TrialRequest
    title: str
    images: tuple[Tried, ...]
    comparisons: dict[str, tuple[Comparison, ...]]
    annotated: int
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """As plain data, without pictures."""
        return {
            "project": self.request.project,
            "annotated": self.annotated,
            "verdict": self.verdict,
            "sides": [
                {
                    "prompt": side.prompt,
                    "strategy": side.strategy,
                    "figures": {
                        name: {"mean": list(found[i].mean), "difference": _listed(found[i].difference)}
                        for name, found in self.comparisons.items()
                    },
                }
                for i, side in enumerate(self.request.sides)
            ],
            "images": [
                {
                    "task": one.task,
                    "outcomes": [
                        {
                            "scores": [round(region.score, 4) for region in outcome.regions],
                            "seconds": round(outcome.seconds, 3),
                            "error": outcome.error,
                            **{name: round(value, 4) for name, value in outcome.figures.items()},
                        }
                        for outcome in one.outcomes
                    ],
                }
                for one in self.images
            ],
        }


def _listed(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)
