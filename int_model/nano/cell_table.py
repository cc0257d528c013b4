"""Where does a strategy pay? Paired differences by kind of scene: every cell of a table of factors, and every level.

A cell is an example's group whose name lists levels, "hidden, clean, away" as ``NanoScenes(..., table=True)`` writes
them. Single and several targets stand apart; of scenes without a target counts how many were rightly left empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from int_model.evaluation.metrics import METRICS
from int_model.evaluation.records import Record
from int_model.evaluation.result import Evaluation
from int_model.evaluation.statistics import Interval, draw, interval, sample

ROUNDS = 2000
Which = Callable[[Record], bool]


def one(record: Record) -> bool:
    """Whether the scene holds a single true object."""
    return record.detections is not None and record.detections.truths == 1


def several(record: Record) -> bool:
    """Whether the scene holds more than one."""
    return record.detections is not None and record.detections.truths > 1


def none(record: Record) -> bool:
    """Whether there is nothing to be found."""
    return record.detections is not None and record.detections.truths == 0


def figure(records: Sequence[Record], variant: str, metric: str, which: Which, rounds: int = ROUNDS) -> Interval | None:
    """A variant's figure on the records that ``which`` keeps; None without any."""
    rows = [r for r in records if r.variant == variant and r.done and which(r)]
    if not rows:
        return None
    columns, counts = draw(list(dict.fromkeys(r.example for r in rows)), rounds)
    found = sample(METRICS[metric], rows, columns, counts)
    return None if found is None else found.interval()


def gap(records: Sequence[Record], a: str, b: str, metric: str, which: Which, rounds: int = ROUNDS) -> Interval | None:
    """``a`` minus ``b`` on the images that both did and ``which`` keeps, resampled together; None without any."""
    rows = {name: {r.example: r for r in records if r.variant == name and r.done and which(r)} for name in (a, b)}
    both = [example for example in rows[a] if example in rows[b]]
    if not both:
        return None
    columns, counts = draw(both, rounds)
    first, second = (sample(METRICS[metric], [rows[name][e] for e in both], columns, counts) for name in (a, b))
    if first is None or second is None:
        return None
    return interval(first.value - second.value, first.resampled - second.resampled, len(both))


@dataclass(frozen=True, slots=True)
class CellRow:
    """``variant`` minus ``baseline`` in IoU on the scenes of a cell or level, by the number of targets."""

    cell: str
    variant: str
    baseline: str
    value: Interval | None
    """The variant's own IoU on scenes with targets."""
    any_target: Interval | None
    one_target: Interval | None
    several_targets: Interval | None


def _of(label: str) -> Which:
    """Scenes of a cell or a level; everything for "all"."""
    return lambda record: label in ("all", record.group, *record.group.split(", "))


def _with_targets(record: Record) -> bool:
    return not none(record)


def _and(first: Which, second: Which) -> Which:
    return lambda record: first(record) and second(record)


def cell_rows(evaluation: Evaluation, variant: str, rounds: int = ROUNDS) -> list[CellRow]:
    """Rows for all scenes, for each level of each factor and for each cell, against every other variant."""
    records = evaluation.records
    groups = list(dict.fromkeys(record.group for record in records))
    factors = zip(*(group.split(", ") for group in groups), strict=False)
    levels = dict.fromkeys(level for factor in factors for level in factor)
    rows = []
    for label in dict.fromkeys(("all", *levels, *groups)):
        keep = _of(label)
        value = figure(records, variant, "iou", _and(keep, _with_targets), rounds)
        for other in (v.name for v in evaluation.variants if v.name != variant):
            gaps = (
                gap(records, variant, other, "iou", _and(keep, kind), rounds) for kind in (_with_targets, one, several)
            )
            rows.append(CellRow(label, variant, other, value, *gaps))
    return rows


def cell_table(evaluation: Evaluation, variant: str, rounds: int = ROUNDS) -> str:
    """The rows as Markdown, one table per other variant, and the empty scenes."""
    parts = []
    rows = cell_rows(evaluation, variant, rounds)
    for other in dict.fromkeys(row.baseline for row in rows):
        parts += ["", f"## {variant} minus {other}, IoU", ""]
        parts += [
            f"| scenes | {variant} | difference | one target | several targets |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in (row for row in rows if row.baseline == other):
            gaps = (row.any_target, row.one_target, row.several_targets)
            own = "-" if row.value is None else f"{row.value.value:.3f}"
            parts.append(f"| {row.cell} | {own} | " + " | ".join(map(_shown, gaps)) + " |")
    parts += ["", "## Scenes without a target", "", "| variant | rightly left empty |", "| --- | --- |"]
    for name in (v.name for v in evaluation.variants):
        left = figure(evaluation.records, name, "empty", none, rounds)
        parts.append(f"| {name} | {_shown(left, '')} |")
    return "\n".join(parts).lstrip("\n") + "\n"


def _shown(found: Interval | None, sign: str = "+") -> str:
    if found is None:
        return "-"
    if found.images < 2:  # one image has no interval
        return f"{found.value:{sign}.3f}, {found.images}"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f}), {found.images}"
