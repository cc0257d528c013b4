"""The verdict on a candidate: promoted only where held-out images show that it is better, and harms no label.

Pure functions on figures; nothing here trains or decodes. A promotion is wrong where the candidate is no better in
truth: the bound is corrected for the number of arms that were compared, and takes the more careful of a paired
bootstrap and Student's t, since a bootstrap of few images is too sure of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from int_model.learning.arms.outlines import LEAK_GAIN
from int_model.learning.scoring import Figures

SIMPLER_WITHIN = 0.005
"""The simplest arm within so much of the best one is taken."""

LABEL_LOSS = 0.02
"""No label with enough held-out images may lose more."""

PROMPT_LOSS = 0.02
"""Neither clicks nor boxes may lose more: a gain at one pays for no loss at the other."""

WORSE_END_TO_END = -0.02
"""A candidate that loses so much with the strategy's own prompts is refused, whatever it gains with given ones."""

END_TO_END_LEVEL = 0.01
"""One-sided level at which a gain with the strategy's own prompts counts: a second chance must not be a cheap one."""

_CLEAR_LEAK = 0.15  # what fewer than three images with several objects can tell

_LABEL_IMAGES = 3
_ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference of means over units: ``value`` with its one-sided lower bound."""

    value: float
    lower: float
    units: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        promoted: whether the candidate may serve.
        arm: the arm that was judged.
        gain: over the parent, with given prompts.
        reasons: each a sentence; what speaks against it where it is not promoted.
    """

    promoted: bool
    arm: str
    gain: Gain
    reasons: tuple[str, ...]


def choose(figures: Mapping[str, Sequence[Figures]], order: Sequence[str]) -> str:
    """The simplest arm whose mean is within ``SIMPLER_WITHIN`` of the best arm's.

    Arms that do what the gate refuses, compared with the first arm (the base), do not take part: else a harmful one
    would take the place of one that may serve.
    """
    there = [arm for arm in order if figures.get(arm)]
    base = figures[there[0]]
    there = [arm for arm in there if arm == there[0] or not harm(figures[arm], base)]
    means = {arm: float(np.mean([entry.value for entry in figures[arm]])) for arm in there}
    best = max(means.values())
    return next(arm for arm in there if means[arm] >= best - SIMPLER_WITHIN)


def judge(
    arm: str, candidate: Sequence[Figures], parent: Sequence[Figures], *, compared: int, seed: int = 0
) -> Verdict:
    """Whether an arm may replace what serves now.

    Args:
        arm: its name, for the sentences.
        candidate: its figures on held-out examples.
        parent: the serving version's on the same examples, in the same order.
        compared: how many arms were compared on these examples (the bound is corrected for it).
        seed: of the resampling.

    Raises:
        ValueError: the two do not belong to the same examples.
    """
    if [entry.unit for entry in candidate] != [entry.unit for entry in parent] or not candidate:
        raise ValueError("candidate and parent need figures of the same held-out examples, at least one")
    gain = paired_gain(candidate, parent, alpha=0.05 / max(1, compared), seed=seed)
    reasons = []
    if gain.lower <= 0:
        reasons.append(
            f"the gain of {gain.value:+.3f} mean IoU on {gain.units} held-out images may be chance "
            f"(lower bound {gain.lower:+.3f})"
        )
    reasons += harm(candidate, parent)
    return Verdict(not reasons, arm, gain, tuple(reasons))


def with_end_to_end(verdict: Verdict, differences: NDArray[np.float64]) -> Verdict:
    """The verdict once the strategy's own prompts have been looked at.

    Args:
        verdict: with given prompts.
        differences: candidate less parent on held-out images, union IoU, ``float64 [N]``.
    """
    mean = float(differences.mean()) if len(differences) else 0.0
    if mean < WORSE_END_TO_END:
        reason = f"with the strategy's own prompts the candidate loses {-mean:.3f} mean IoU"
        return replace(verdict, promoted=False, reasons=(*verdict.reasons, reason))
    bound = lower_bound(differences, alpha=END_TO_END_LEVEL)
    chance_only = len(verdict.reasons) == 1 and "may be chance" in verdict.reasons[0]
    if not verdict.promoted and chance_only and bound > 0 and verdict.gain.value >= -SIMPLER_WITHIN:
        return Verdict(True, verdict.arm, Gain(mean, bound, len(differences)), ())
    return verdict


def harm(candidate: Sequence[Figures], parent: Sequence[Figures]) -> list[str]:
    """What is worse than under the parent, a sentence each: a label, a kind of prompt, or other objects covered."""
    reasons = [*_losing_labels(candidate, parent), *_losing_prompts(candidate, parent)]
    leak = leak_gain(candidate, parent)
    if leak is not None:
        reasons.append(f"a click covers other objects more than before (IoU with them {leak:+.3f})")
    return reasons


def paired_gain(candidate: Sequence[Figures], parent: Sequence[Figures], *, alpha: float = 0.05, seed: int = 0) -> Gain:
    """The mean difference over units with its lower bound at one-sided level ``alpha``."""
    differences: dict[str, list[float]] = {}
    for new, old in zip(candidate, parent, strict=True):
        differences.setdefault(new.unit, []).append(new.value - old.value)
    values = np.array([np.mean(entries) for entries in differences.values()])
    return Gain(float(values.mean()), lower_bound(values, alpha=alpha, seed=seed), len(values))


def lower_bound(values: NDArray[np.float64], *, alpha: float, seed: int = 0) -> float:
    """The more careful of the bootstrap's percentile and Student's t bound; minus infinity below three values."""
    count = len(values)
    if count < 3:
        return float("-inf")
    spread = float(values.std(ddof=1))
    student = float(values.mean() - stats.t.ppf(1 - alpha, count - 1) * spread / np.sqrt(count))
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, count, (_ROUNDS, count))].mean(axis=1)
    return min(student, float(np.percentile(means, 100 * alpha)))


def leak_gain(candidate: Sequence[Figures], parent: Sequence[Figures]) -> float | None:
    """By how much more clicks cover other objects than under the parent, if that is more than chance; else None."""
    pairs = zip(candidate, parent, strict=False)
    changes = np.array([a.leak - b.leak for a, b in pairs if a.leak is not None and b.leak is not None])
    if not len(changes) or changes.mean() <= LEAK_GAIN:
        return None
    clear = lower_bound(changes, alpha=0.2) > 0 if len(changes) > 2 else changes.mean() > _CLEAR_LEAK
    return float(changes.mean()) if clear else None


def _losing_labels(candidate: Sequence[Figures], parent: Sequence[Figures]) -> list[str]:
    changes: dict[str, list[float]] = {}
    for new, old in zip(candidate, parent, strict=True):
        for label, value in new.labels.items():
            changes.setdefault(label, []).append(value - old.labels[label])
    return [
        f"the label '{label}' loses {-float(np.mean(values)):.3f} mean IoU on {len(values)} held-out images"
        for label, values in sorted(changes.items())
        if len(values) >= _LABEL_IMAGES and np.mean(values) < -LABEL_LOSS
    ]


def _losing_prompts(candidate: Sequence[Figures], parent: Sequence[Figures]) -> list[str]:
    pairs = list(zip(candidate, parent, strict=False))
    changes = {
        "a click": [new.click - old.click for new, old in pairs],
        "a loose box": [new.box - old.box for new, old in pairs],
    }
    return [
        f"with {kind} as prompt the candidate loses {-float(np.mean(values)):.3f} mean IoU on {len(values)} "
        "held-out images"
        for kind, values in changes.items()
        if len(values) >= _LABEL_IMAGES and np.mean(values) < -PROMPT_LOSS
    ]
