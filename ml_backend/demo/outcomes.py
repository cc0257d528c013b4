"""What Label Studio holds for a sample, against the sample's true mask; a sentence where that misses the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from int_model.core.types import Mask, union
from int_model.html.text import counted
from ml_backend.demo.samples import Sample
from ml_backend.labelstudio.regions.decode import decode_region

_GEOMETRY = ("points", "rle", "imageDataURL", "width")
GOOD_IOU = 0.5
"""From this overlap on a prediction is called right."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Label Studio holds for one sample task.

    Attributes:
        project: in Label Studio.
        task: in Label Studio.
        sample: that was uploaded.
        regions: of the newest prediction; an item that carries geometry.
        score: of that prediction.
        model_version: of that prediction, "" if there is none.
        iou: overlap of its regions with the sample's mask, in [0, 1]; None without a prediction.
        found: the part of the object that the regions cover, in [0, 1]; 1 without an object.
        right: the part of the regions that is the object, in [0, 1]; 1 without regions.
    """

    project: int
    task: int
    sample: Sample
    regions: int
    score: float | None
    model_version: str
    iou: float | None = None
    found: float = 1.0
    right: float = 1.0

    @property
    def answered(self) -> bool:
        return bool(self.model_version)

    @property
    def fine(self) -> bool:
        """Whether there is a prediction, with regions unless there is nothing to find."""
        return self.answered and (self.regions > 0 or self.sample.empty)

    @property
    def miss(self) -> str:
        """What an annotator has to mend, as a sentence without full stop; "" if the regions lie on the object."""
        if not self.answered:
            return "there is no prediction"
        if self.sample.empty:
            return f"there is nothing to find, and {counted(self.regions, 'region')} drawn" if self.regions else ""
        if not self.regions:
            return f"looked and found nothing; there is {self.sample.name}"
        if self.iou is None or self.iou >= GOOD_IOU:
            return ""
        if self.found < 0.1:
            return f"something else than the {self.sample.name} is outlined"
        said = [f"{1 - self.right:.0%} of what is outlined is not the {self.sample.name}"] if self.right < 0.8 else []
        name = "it" if said else f"the {self.sample.name}"
        return ", and ".join(said + ([f"{1 - self.found:.0%} of {name} is missed"] if self.found < 0.8 else []))


def outcome_of(project: int, task: int, sample: Sample, predictions: Sequence[dict[str, Any]]) -> Outcome:
    """Read a task's newest prediction as Label Studio stores it, without holding it against the mask."""
    if not predictions:
        return Outcome(project=project, task=task, sample=sample, regions=0, score=None, model_version="")
    newest = _newest(predictions)
    return Outcome(
        project=project,
        task=task,
        sample=sample,
        regions=len(_regions(newest)),
        score=newest.get("score"),
        model_version=str(newest.get("model_version") or ""),
    )


def judged(project: int, task: int, sample: Sample, predictions: Sequence[dict[str, Any]]) -> Outcome:
    """The same, held against the sample's mask."""
    plain = outcome_of(project, task, sample, predictions)
    if not plain.answered:
        return plain
    truth = np.asarray(Image.open(sample.mask).convert("L")) > 127
    size = (truth.shape[0], truth.shape[1])
    drawn = union(size, [decode_region(item, size) for item in _regions(_newest(predictions))])
    both = np.count_nonzero(drawn & truth)
    return Outcome(
        project=project,
        task=task,
        sample=sample,
        regions=plain.regions,
        score=plain.score,
        model_version=plain.model_version,
        iou=_share(both, drawn | truth),
        found=_share(both, truth),
        right=_share(both, drawn),
    )


def _newest(predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(predictions, key=lambda prediction: int(prediction["id"]))


def _regions(prediction: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in prediction["result"] if any(key in item.get("value", {}) for key in _GEOMETRY)]


def _share(count: int, of: Mask) -> float:
    whole = np.count_nonzero(of)
    return float(count / whole) if whole else 1.0
