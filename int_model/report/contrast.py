"""How the name was found, as numbers to print: views, probabilities, contrast, running scores and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from int_model.core.config import IntConfig, StrategyConfig
from int_model.core.types import Floats, IterationTrace, Patch, Trace

ScoreKey = Literal["patch", "name"]


def score_key(config: StrategyConfig) -> ScoreKey:
    """By what the running scores of a strategy with that configuration are kept."""
    return "name" if isinstance(config, IntConfig) and config.pnm.key != "patch" else "patch"


@dataclass(frozen=True, slots=True)
class Cell:
    """One name under one view: its probability before and after painting over, the drop, and whether it gave D."""

    before: float
    after: float
    drop: float
    reached: bool

    @property
    def shade(self) -> float:
        """How strongly to colour the cell, in ``[0, 1]``: the square root, so that small drops show too."""
        return _unit(math.sqrt(abs(self.drop)))

    @property
    def before_bar(self) -> float:
        """Length of the first bar, in ``[0, 1]``."""
        return _unit(self.before)

    @property
    def after_bar(self) -> float:
        """Length of the second bar, in ``[0, 1]``."""
        return _unit(self.after)


@dataclass(frozen=True, slots=True)
class Row:
    """One view in one iteration. ``share`` of the running score in ``[0, 1]``, None if that is kept by name."""

    view: int
    place: str
    cells: tuple[Cell, ...]
    contrast: float
    name: str
    share: float | None
    winner: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a name won in one iteration.

    ``share`` is the part of the running score that all views which settled on the name hold together.
    ``rival`` is the best other name: of the names that some view settled on, the one with the highest running score;
    if all views settled on the winner, the one that lost most in any view. Empty if there was no other name.
    """

    name: str
    view: int
    place: str
    before: float | None
    after: float | None
    contrast: float
    share: float
    rival: str
    rival_place: str
    rival_contrast: float
    rival_share: float
    largest: bool


def _unit(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 3) if math.isfinite(value) else 0.0


def place_of(patch: Patch, size: tuple[int, int]) -> str:
    """Where a patch lies, in words (``whole image``, ``left half``, ``bottom right quarter``), for ``size`` (h, w)."""
    height, width = size
    box = patch.box
    words = (_third(box.y1, box.y2, height, "top", "bottom"), _third(box.x1, box.x2, width, "left", "right"))
    where = " ".join(word for word in words if word)
    if not where:
        return "whole image"
    part = {2: "half", 4: "quarter"}.get(patch.scale, f"part (scale {patch.scale})")
    return f"{where} {part}"


def _third(low: float, high: float, length: int, first: str, last: str) -> str:
    if high - low > 0.9 * length:
        return ""
    middle = (low + high) / 2 / length
    return first if middle < 0.45 else last if middle > 0.55 else "middle"


def shares(log_scores: Floats) -> Floats:
    """Running scores as parts of their sum (paper eq. 7 on accumulated scores), from logs; zeros if none is finite."""
    if log_scores.size == 0 or not np.isfinite(log_scores).any():
        return np.zeros(log_scores.shape)
    top = float(log_scores[np.isfinite(log_scores)].max())
    scores = np.where(np.isfinite(log_scores), np.exp(np.clip(log_scores - top, -745.0, 0.0)), 0.0)
    return np.asarray(scores / scores.sum(), dtype=np.float64)


def rows_of(trace: Trace, iteration: IterationTrace, size: tuple[int, int], key: ScoreKey) -> list[Row]:
    """The table of one iteration, one row per view; every row has a cell per name of ``trace.names``."""
    parts = shares(iteration.log_scores)
    before_and_after = zip(iteration.p_original, iteration.p_inpainted, strict=True)
    own = zip(trace.patches, before_and_after, iteration.patch_names, iteration.contrast, strict=False)
    rows = []
    for k, (patch, (before, after), name, contrast) in enumerate(own):
        cells = tuple(
            Cell(float(p), float(q), float(p - q), reached=trace.names[u : u + 1] == (name,))
            for u, (p, q) in enumerate(zip(before, after, strict=True))
        )
        share = float(parts[k]) if key == "patch" and k < parts.size else None
        rows.append(Row(k, place_of(patch, size), cells, float(contrast), name, share, k == iteration.winner_patch))
    return rows


def explain(trace: Trace, iteration: IterationTrace, rows: Sequence[Row], key: ScoreKey) -> Explanation | None:
    """The reason of one iteration's choice, or None if there was no contrast to choose by."""
    if not rows or iteration.winner_patch >= len(rows):
        return None
    winner = rows[iteration.winner_patch]
    names = list(trace.names)
    cell = (
        winner.cells[names.index(iteration.winner_name)]
        if iteration.winner_name in names[: len(winner.cells)]
        else None
    )
    parts = shares(iteration.log_scores)

    def standing(name: str) -> float:
        if key == "patch":
            return sum(row.share or 0.0 for row in rows if row.name == name)
        return float(parts[names.index(name)]) if name in names[: parts.size] else 0.0

    others = [
        (standing(row.name), row.share or 0.0, row.contrast, row, row.name)
        for row in rows
        if row.name != iteration.winner_name
    ]
    if not any(name for *_, name in others):
        others = [
            (0.0, 0.0, cell.drop, row, name)
            for row in rows
            for name, cell in zip(names, row.cells, strict=False)
            if name != iteration.winner_name and math.isfinite(cell.drop)
        ]
    rival = max(others, key=lambda item: item[:3], default=None)
    contrasts = [row.contrast for row in rows if math.isfinite(row.contrast)]
    return Explanation(
        name=iteration.winner_name,
        view=winner.view,
        place=winner.place,
        before=cell.before if cell else None,
        after=cell.after if cell else None,
        contrast=winner.contrast,
        share=standing(iteration.winner_name),
        rival=rival[4] if rival else "",
        rival_place=rival[3].place if rival else "",
        rival_contrast=rival[2] if rival else math.nan,
        rival_share=rival[0] if rival else 0.0,
        largest=bool(contrasts) and winner.contrast >= max(contrasts),
    )
