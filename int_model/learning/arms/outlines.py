"""Choices without training: which mask slot a label means, and how far its outline lies from SAM's.

Both are chosen per label on the examples, and only changed where the gain exceeds one standard error of the paired
differences: naive choices from two images harm more often than they help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask
from int_model.learning.adaptation import Outline
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.sam import Encoded
from int_model.models.protocols import MaskPrompt

OFFSETS = (-0.16, -0.12, -0.08, -0.05, -0.03, 0.0, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2)
THRESHOLDS = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A prompt for a target of known mask on an encoded image.

    Attributes:
        unit: the image (or group) that it belongs to.
        others: the masks of the image's other objects.
    """

    encoded: Encoded
    prompt: MaskPrompt
    truth: Mask
    label: str
    unit: str
    others: tuple[Mask, ...] = ()

    def worth(self, mask: Mask) -> float:
        """IoU with the truth, less the IoU with the other object that the mask covers most."""
        return overlap(mask, self.truth) - leak_of(mask, self.others)


def choose_slots(decoder: AdaptedDecoder, asked: Sequence[Asked]) -> dict[str, Outline]:
    """The slot of each label that beats the base's choice by more than one standard error, if any does."""
    found = {}
    for label in sorted({entry.label for entry in asked}):
        own = [entry for entry in asked if entry.label == label]
        table = []
        for entry in own:
            logits, taken = decoder.slot_logits(entry.encoded, entry.prompt, label)
            values = [entry.worth(one > 0) for one in logits]
            table.append([values[taken], *values])
        column = best_column(np.array(table), [entry.unit for entry in own])
        if column:
            found[label] = Outline(slot=column - 1)
    return found


def choose_outlines(decoder: AdaptedDecoder, asked: Sequence[Asked]) -> dict[str, Outline]:
    """Slot, threshold and offset of each label, chosen together; one choice for clicks and boxes alike."""
    options = [Outline(slot, 0.0, offset) for slot in (None, 0, 1, 2, 3) for offset in OFFSETS]
    options += [Outline(slot, threshold) for slot in (None, 0, 1, 2, 3) for threshold in THRESHOLDS if threshold]
    options.sort(key=lambda option: option != Outline())  # what changes nothing comes first
    found = {}
    for label in sorted({entry.label for entry in asked}):
        own = [entry for entry in asked if entry.label == label]
        table = []
        for entry in own:
            logits, taken = decoder.slot_logits(entry.encoded, entry.prompt, label)
            row = []
            for option in options:
                slot = taken if option.slot is None else option.slot
                row.append(entry.worth(option.apply(logits[slot]) > 0))
            table.append(row)
        chosen = options[best_column(np.array(table), [entry.unit for entry in own])]
        if chosen != Outline():
            found[label] = chosen
    return found


def best_column(table: NDArray[np.float64], units: Sequence[str]) -> int:
    """The column with the best mean over units, if it beats column 0 by more than one standard error; else 0.

    Rows of one unit are averaged first, as they are no independent evidence.
    """
    names = sorted(set(units))
    rows = np.array([table[[i for i, unit in enumerate(units) if unit == name]].mean(axis=0) for name in names])
    best = int(rows.mean(axis=0).argmax())
    gains = rows[:, best] - rows[:, 0]
    if best == 0 or gains.mean() <= 0:
        return 0
    if len(gains) == 1:
        return best if gains[0] > _LONE_GAIN else 0
    return best if gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)) else 0


_LONE_GAIN = 0.1  # one image alone must speak clearly


def leak_of(mask: Mask, others: Sequence[Mask]) -> float:
    """IoU with the other object that a mask covers most; 0 without others."""
    return max((overlap(mask, other) for other in others), default=0.0)


def overlap(mask: Mask, truth: Mask) -> float:
    """Intersection over union; 1 if both are empty."""
    union = int((mask | truth).sum())
    return 1.0 if union == 0 else int((mask & truth).sum()) / union
