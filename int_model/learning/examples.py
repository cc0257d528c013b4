"""What is learned from: images with the masks that people approved, in groups that a split keeps together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats, Image, Mask, check_image, union


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """The clicks of one interactive session on one object, in the order in which they were made.

    Attributes:
        points: ``float64 [P, 2]`` (x, y) in image pixels.
        labels: ``int64 [P]``, 1 on the object, 0 beside it.
    """

    points: Floats
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.labels), 2):
            raise ValueError(f"{len(self.labels)} labels need points of shape [{len(self.labels)}, 2]")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One object as a person left it.

    Attributes:
        label: the label of the region.
        mask: ``bool [H, W]``, not empty.
        weight: how much it counts in training, in (0, 1]; unchanged accepted predictions count less.
        clicks: what the annotator clicked to make it, if that was recorded.
    """

    label: str
    mask: Mask
    weight: float = 1.0
    clicks: tuple[Clicks, ...] = ()

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 2 or not self.mask.any():
            raise ValueError("a target's mask is bool [H, W] with at least one pixel")
        if not 0 < self.weight <= 1:
            raise ValueError(f"a target's weight lies above 0 and at most at 1, not at {self.weight}")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One annotated image.

    Attributes:
        image: ``uint8 [H, W, 3]``.
        targets: all objects of it; none where a person found nothing.
        group: images of one group (a series, a patient, near duplicates) are never split; "" for an image alone.
        id: what the image is called in reports, e.g. a task's number.
    """

    image: Image
    targets: tuple[Target, ...]
    group: str = ""
    id: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        check_image(self.image)
        for target in self.targets:
            if target.mask.shape != self.image.shape[:2]:
                raise ValueError(f"a mask of shape {target.mask.shape} does not fit an image of {self.image.shape[:2]}")
        object.__setattr__(self, "digest", hashlib.sha256(self.image.tobytes()).hexdigest())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted({target.label for target in self.targets}))

    def mask_of(self, label: str) -> Mask:
        """All pixels of one label, ``bool [H, W]``."""
        return union(self.size, [t.mask for t in self.targets if t.label == label])

    @property
    def unit(self) -> str:
        """What a split keeps together: the group, or the image itself."""
        return self.group or self.digest


def data_digest(examples: Sequence[Example]) -> str:
    """Sixteen hexadecimal digits over all images, masks, labels and weights; independent of the order."""
    parts = []
    for example in examples:
        own = hashlib.sha256(example.digest.encode())
        for text in sorted(_described(target) for target in example.targets):
            own.update(text.encode())
        parts.append(own.hexdigest())
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()[:16]


def _described(target: Target) -> str:
    pixels = hashlib.sha256(np.packbits(target.mask).tobytes()).hexdigest()
    clicks = [(c.points.round(2).tolist(), c.labels.tolist()) for c in target.clicks]
    return f"{target.label}\0{target.mask.shape}\0{pixels}\0{target.weight:.3f}\0{clicks}"


HOLDOUT_FROM = 25
"""From so many units on one fifth is held out; below, every unit is held out once in five folds."""


def folds(examples: Sequence[Example], *, seed: int = 0, count: int = 5) -> list[tuple[list[int], list[int]]]:
    """Splits into training and held-out indices; whole units (groups) on one side only.

    Below ``HOLDOUT_FROM`` units every unit is held out exactly once, in ``count`` folds at most; from there on one
    split holds out a fifth. The split depends on the units' names and the seed alone, so that a unit does not change
    sides when examples are added to a hold-out split.

    Raises:
        ValueError: there are fewer than two units.
    """
    units = sorted({example.unit for example in examples})
    if len(units) < 2:
        raise ValueError("judging needs at least two images (or groups of images)")
    ranked = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}\0{unit}".encode()).digest())
    if len(units) >= HOLDOUT_FROM:
        held = [{unit for unit in ranked if hashlib.sha256(f"{seed}\0{unit}".encode()).digest()[0] < 51}]
        if len(held[0]) < 5:
            held = [set(ranked[:5])]
    else:
        held = [set(ranked[start::count]) for start in range(min(count, len(units)))]
    return [
        (
            [i for i, example in enumerate(examples) if example.unit not in out],
            [i for i, example in enumerate(examples) if example.unit in out],
        )
        for out in held
    ]
