"""The contrast D, the choice of the instance prompt, and its accumulation over iterations: pure functions, no models.

Paper, modules PSNM (eqs. 4-6) and PNM (eqs. 7, 8). K patches, U candidate names, T tokens of an answer, V tokens of the
vocabulary. A *running score* is a logarithm, ``float64 [K]`` or ``[U]`` according to what keys it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from int_model.core.prompt_options import PnmConfig
from int_model.core.types import Floats

_TIE = 1e-9
"""Running scores (logarithms) closer than this are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """How the VLM's output changed in one iteration.

    Attributes:
        delta: ``float64 [K, U]``, p(name | X_k) - p(name | X'_k).
        values: ``float64 [K]``, D of each patch (eq. 4): its largest entry of ``delta``; may be <= 0.
        names: the K names y_k that reached it (eq. 5).
    """

    delta: Floats
    values: Floats
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A patch k* and its name A_i^u (eq. 6)."""

    patch: int
    name: str


def contrast(p_original: Floats, p_inpainted: Floats, names: Sequence[str], own: Sequence[str | None]) -> Contrast:
    """Eqs. 4 and 5 over the candidate names, from two tables ``float64 [K, U]`` of probabilities.

    ``own`` holds the name that the VLM itself gave each patch. It is y_k where nothing in the patch changed for the
    worse (no entry of ``delta`` > 0), since the largest of several non-changes says nothing.
    """
    delta = p_original - p_inpainted
    largest = delta.argmax(axis=1)
    values = delta.max(axis=1)
    chosen = tuple(
        own_name if own_name is not None and value <= 0 else names[column]
        for column, value, own_name in zip(largest, values, own, strict=True)
    )
    return Contrast(delta, values, chosen)


def vocabulary_change(
    before: NDArray[np.floating], after: NDArray[np.floating], step: Literal["mean", "first", "max"]
) -> tuple[float, float]:
    """Eq. 4 read literally: the two probabilities whose difference is D, along one teacher-forced answer.

    ``before`` and ``after`` are next-token distributions ``[T, V]`` under the patch and the inpainted patch. At each
    token the vocabulary entry that loses most is taken; of the T tokens the ``first``, the one with the largest loss
    (``max``), or else the mean counts. Since distributions sum to one, the difference is never negative.
    """
    if before.shape != after.shape or before.shape[0] == 0:
        raise ValueError(f"the two distributions must have one shape [T, V] with T > 0: {before.shape}, {after.shape}")
    old, new = before.astype(np.float64), after.astype(np.float64)
    entry = (old - new).argmax(axis=1)
    rows = np.arange(len(entry))
    p_old, p_new = old[rows, entry], new[rows, entry]
    if step == "first":
        return float(p_old[0]), float(p_new[0])
    if step == "max":
        t = int((p_old - p_new).argmax())
        return float(p_old[t]), float(p_new[t])
    return float(p_old.mean()), float(p_new.mean())


def evidence(change: Contrast, names: Sequence[str], own: Sequence[str | None], rules: PnmConfig) -> Floats:
    """What this iteration contributes: D per patch, ``[K]``, or per name over the patches, ``[U]``.

    Keyed by votes, a name's D (at least ``noise``) is multiplied by the part of the patches whose own name (``own``,
    K of them) it is.
    """
    if rules.key == "patch":
        return change.values
    drops: Floats = change.delta.max(axis=0) if rules.name_reduce == "max" else change.delta.mean(axis=0)
    if rules.key == "name":
        return np.asarray(drops)
    votes = np.array([sum(said == name for said in own) for name in names]) / max(1, len(own))
    return np.asarray(votes * np.maximum(drops, rules.noise))


def among(change: Contrast, deciding: NDArray[np.bool_]) -> Contrast:
    """The contrast as if nothing had changed in the patches that do not decide (``bool [K]``)."""
    delta = np.where(deciding[:, None], change.delta, 0.0)
    return Contrast(delta, np.where(deciding, change.values, 0.0), change.names)


def accumulate(running: Floats | None, values: Floats, eps: float) -> Floats:
    """Eq. 8 in log space: ``L + log max(D, eps)``; the floor keeps one zero from ending a patch for good.

    ``running`` may be shorter than ``values`` (names found later): the new entries start at the lowest score so far.
    """
    step: Floats = np.log(np.maximum(values, eps))
    if running is None:
        return step
    late = np.full(len(values) - len(running), running.min(initial=0.0))
    return np.asarray(np.concatenate([running, late]) + step)


def normalised(running: Floats) -> Floats:
    """Eq. 7, D^norm: the accumulated scores divided by their sum. For reporting only; it never changes a ranking."""
    shifted = np.exp(running - running.max())
    return np.asarray(shifted / shifted.sum())


def leaders(running: Floats, change: Contrast, names: Sequence[str], key: str) -> list[Choice]:
    """The choices that share the highest running score (eq. 6); more than one only in a tie.

    Keyed by name or votes, a name's patch is the one in which it lost most.
    """
    best = np.flatnonzero(running >= running.max() - _TIE)
    if key == "patch":
        return [Choice(int(k), change.names[k]) for k in best]
    return [Choice(int(change.delta[:, u].argmax()), names[u]) for u in best]


def settle(tied: Sequence[Choice], votes: Mapping[str, float]) -> Choice:
    """One of several tied choices: the name with most votes (see ``tally``), in its first patch."""
    winner = max(tied, key=lambda choice: votes.get(choice.name, -np.inf))
    return next(choice for choice in tied if choice.name == winner.name)


def tally(own: Sequence[str | None], similarity: Floats) -> dict[str, float]:
    """Votes of the patches for the names the VLM gave them, weighted by CLIP similarity of patch and name, ``[K]``.

    Similarities are shifted so that the least similar patch still has a little weight: a majority counts, and
    between equals the similarity decides.
    """
    voting = [k for k, name in enumerate(own) if name is not None]
    if not voting:
        return {}
    lowest = min(float(similarity[k]) for k in voting)
    votes: dict[str, float] = {}
    for k in voting:
        name = own[k]
        if name is not None:
            votes[name] = votes.get(name, 0.0) + float(similarity[k]) - lowest + 0.1
    return votes
