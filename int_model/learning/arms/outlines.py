"""Choices without training: which mask slot a label means, and how far its outline lies from SAM's.

Both are chosen per label on the examples, and only changed where the gain exceeds one standard error of the paired
differences: naive choices from two images harm more often than they help. A choice that covers other objects more than
SAM's own does is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask
from int_model.learning.adaptation import Outline, signed_distance
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.prompts import equivalent_diameter
from int_model.learning.sam import SLOTS, Encoded
from int_model.models.protocols import MaskPrompt

OFFSETS = (-0.16, -0.12, -0.08, -0.05, -0.03, 0.0, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2)
THRESHOLDS = (-2.0, -1.0, 0.0, 1.0, 2.0)

LEAK_GAIN = 0.01
"""A choice whose masks overlap other objects by so much more IoU than SAM's own choice is left out."""


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


def choose_slots(decoder: AdaptedDecoder, asked: Sequence[Asked]) -> dict[str, Outline]:
    """The slot of each label that beats the base's choice by more than one standard error, if any does."""
    return _choose(decoder, asked, [Outline(), *(Outline(slot) for slot in range(SLOTS))])


def choose_outlines(decoder: AdaptedDecoder, asked: Sequence[Asked]) -> dict[str, Outline]:
    """Slot, threshold and offset of each label, chosen together."""
    slots = (None, *range(SLOTS))
    options = [Outline(slot, 0.0, offset) for slot in slots for offset in OFFSETS]
    options += [Outline(slot, threshold) for slot in slots for threshold in THRESHOLDS if threshold]
    options.sort(key=lambda option: option != Outline())  # what changes nothing comes first
    return _choose(decoder, asked, options)


def _choose(decoder: AdaptedDecoder, asked: Sequence[Asked], options: Sequence[Outline]) -> dict[str, Outline]:
    """The best option of each label; labels for which that is the first one, which changes nothing, are left out."""
    found = {}
    for label in sorted({entry.label for entry in asked}):
        own = [entry for entry in asked if entry.label == label]
        overlaps, leaks = np.zeros((len(own), len(options))), np.zeros((len(own), len(options)))
        for row, entry in enumerate(own):
            for column, mask in enumerate(_drawn(decoder, entry, options)):
                overlaps[row, column] = overlap(mask, entry.truth)
                leaks[row, column] = leak_of(mask, entry.others)
        crowded = [row for row, entry in enumerate(own) if entry.others]
        safe = np.ones(len(options), dtype=np.bool_)
        if crowded:
            mean = leaks[crowded].mean(axis=0)
            safe = mean <= mean[0] + LEAK_GAIN
        chosen = options[best_column(np.where(safe, overlaps - leaks, -1.0), [entry.unit for entry in own])]
        if chosen != options[0]:
            found[label] = chosen
    return found


def _drawn(decoder: AdaptedDecoder, entry: Asked, options: Sequence[Outline]) -> Iterator[Mask]:
    """The mask of a prompt under each option; distances to an outline are computed once per slot."""
    logits, taken = decoder.slot_logits(entry.encoded, entry.prompt, entry.label)
    distances: dict[int, NDArray[np.float32]] = {}
    for option in options:
        slot = taken if option.slot is None else option.slot
        mask = np.asarray(logits[slot] > option.threshold)
        if option.offset and mask.any() and not mask.all():
            if option.threshold:
                yield np.asarray(option.apply(logits[slot]) > 0)
                continue
            if slot not in distances:
                distances[slot] = signed_distance(mask)
            mask = np.asarray(distances[slot] + np.float32(option.offset * equivalent_diameter(mask)) > 0)
        yield mask


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
