"""What was learned, as data: per label a mask slot, an outline, a heat-map probe and a calibration; weights for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Floats, Mask
from int_model.learning.prompts import distance_to, equivalent_diameter

WeightsKind = Literal["tokens", "plm", "lora", "decoder"]
Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Outline:
    """How a label's logits become a mask.

    Attributes:
        slot: SAM's mask slot (0 single, 1 to 3 the alternatives), or None for the best predicted IoU.
        threshold: a pixel belongs to the mask where its logit exceeds this.
        offset: the outline moves outward by this share of the mask's equivalent diameter (inward if negative).
    """

    slot: int | None = None
    threshold: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.slot not in (None, 0, 1, 2, 3):
            raise ValueError(f"SAM has the mask slots 0 to 3, not {self.slot}")
        if not -0.5 <= self.offset <= 0.5:
            raise ValueError(f"an offset lies between -0.5 and 0.5 of the diameter, not at {self.offset}")

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``float32 [H, W]`` whose positive pixels are the mask under this outline."""
        shifted = logits if self.threshold == 0 else logits - np.float32(self.threshold)
        if self.offset == 0:
            return shifted
        mask = shifted > 0
        if not mask.any() or mask.all():
            return shifted
        return signed_distance(mask) + np.float32(self.offset * equivalent_diameter(mask))


def signed_distance(mask: Mask) -> NDArray[np.float32]:
    """Pixels to the outline, positive inside, ``float32 [H, W]``; half a pixel on either side of it."""
    return np.asarray(np.where(mask, distance_to(~mask) - 0.5, 0.5 - distance_to(mask)), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A linear classifier of the cells of SAM's embedding: where a label's objects are.

    Attributes:
        weights: ``float32 [3 D]`` over a cell's features and their means over 3 x 3 and 7 x 7 cells, standardised.
        bias: its intercept.
        mean, scale: of the features in training, ``float32 [3 D]``.
        threshold: probability from which a cell belongs to an object.
    """

    weights: NDArray[np.float32]
    bias: float
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    threshold: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A non-decreasing map from a score to the IoU that is to be expected: points ``scores``, ``expected``."""

    scores: Floats
    expected: Floats

    def __post_init__(self) -> None:
        rising = (np.diff(self.scores) >= 0).all() and (np.diff(self.expected) >= -1e-9).all()
        if len(self.scores) != len(self.expected) or not len(self.scores) or not rising:
            raise ValueError("a calibration has as many scores as values, both in rising order")

    def __call__(self, score: float) -> float:
        """The calibrated score, in [0, 1]."""
        return float(np.clip(np.interp(score, self.scores, self.expected), 0.0, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Trained tensors of one arm, by name; ``labels`` in the order of the label tokens."""

    kind: WeightsKind
    tensors: Arrays
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """Everything that was learned for a project. The default is the identity: it changes nothing, to the bit.

    Attributes:
        outlines: how masks of a label are drawn.
        boxed: the same for prompts with a box, where it differs: a click is ambiguous where a box is not.
        probes: where objects of a label are.
        calibrations: of the scores of a label.
        weights: what was trained of the decoder.
        refiner: tensors of the point matching module.
    """

    outlines: Mapping[str, Outline] = field(default_factory=dict)
    boxed: Mapping[str, Outline] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    weights: Weights | None = None
    refiner: Arrays | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that something was learned for, sorted."""
        drawn = {*self.outlines, *self.boxed}
        known = {*drawn, *self.probes, *self.calibrations, *(self.weights.labels if self.weights else ())}
        return tuple(sorted(known))

    def outline(self, label: str, *, boxed: bool = False) -> Outline:
        """How masks of a label are drawn; ``boxed``: the prompt has a box."""
        usual = self.outlines.get(label, Outline())
        return self.boxed.get(label, usual) if boxed else usual

    def decodes_as_base(self, label: str) -> bool:
        """Whether decoding a label's prompts is left to the segmenter as it is."""
        touched = self.weights is not None and (not self.weights.labels or label in self.weights.labels)
        same = all(self.outline(label, boxed=boxed) == Outline() for boxed in (False, True))
        return not touched and same and self.refiner is None
