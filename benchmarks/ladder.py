"""The tables of docs/evaluation.md out of an ``evaluation.json`` of the miniature world with all ablations.

    int-backend evaluate --nano 80 --seeds 2501,2502,2503 --ablation all --share-calls \
        --strategies vlm_box,grounded_sam,promac --out ladder
    python -m benchmarks.ladder ladder/evaluation.json

Intervals are 95 % percentile bootstrap intervals over images; differences are paired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from int_model.evaluation import Evaluation, Interval, load_evaluation
from int_model.evaluation.ablations import FULL, ablation_variants, printed
from int_model.nano import cell_table
from int_model.nano.cell_table import Which, one, several

ROUNDS = 10_000
TABLES = {"3a": "iterations", "3b": "scales", "3c": "modules"}
STEPS = (
    (FULL, "w/o SMG"),
    ("w/o SMG", "w/o PNM"),
    ("w/o PNM", "w/o PSNM"),
    ("w/o PNM", "w/o HCG"),
    (FULL, "w/o PNM"),
    (FULL, "w/o PSNM"),
    (FULL, "w/o HCG"),
)


def figure(evaluation: Evaluation, variant: str, metric: str, which: Which = lambda _: True) -> Interval | None:
    """A variant's figure on the records that ``which`` keeps."""
    return cell_table.figure(evaluation.records, variant, metric, which, ROUNDS)


def gap(evaluation: Evaluation, a: str, b: str, metric: str, which: Which = lambda _: True) -> Interval | None:
    """``a`` minus ``b`` on the images that both did, resampled together."""
    return cell_table.gap(evaluation.records, a, b, metric, which, ROUNDS)


def shown(value: Interval | None, *, signed: bool = False, digits: int = 3) -> str:
    """``0.650 (0.620 - 0.680)``."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{value.value:{sign}.{digits}f} ({value.low:{sign}.{digits}f} to {value.high:{sign}.{digits}f})"


def mean(value: Interval | None, digits: int = 3) -> str:
    """The figure alone."""
    return "-" if value is None else f"{value.value:.{digits}f}"


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def head(cells: Sequence[str]) -> list[str]:
    """Its head and the line below."""
    return [row(cells), row(["---"] * len(cells))]


def strategies(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """Accuracy and cost of whole strategies, and their differences to the full method."""
    lines = head(["variant", "IoU", f"minus {FULL}", "M", "F", "E", "S", "object F1", "named", "calls"])
    for name in names:
        cells = [shown(figure(evaluation, name, "iou"))]
        cells.append("" if name == FULL else shown(gap(evaluation, name, FULL, "iou"), signed=True))
        cells += [mean(figure(evaluation, name, m)) for m in ("mae", "wf_b03", "e_mean", "s", "instance_f1_50")]
        cells += [mean(figure(evaluation, name, m), 2) for m in ("named",)]
        lines.append(row([f"`{name}`", *cells, mean(figure(evaluation, name, "calls"), 0)]))
    return lines


def slices(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """IoU by task, by number of true objects, by seed."""
    kept: dict[str, Which] = {
        f"{label} ({{}})": which
        for label, which in (
            ("one object", one),
            ("several", several),
        )
    }
    for task in dict.fromkeys(r.task for r in evaluation.records):
        kept[f"{task} ({{}})"] = lambda r, task=task: r.task == task  # type: ignore[misc]
    for group in dict.fromkeys(r.group for r in evaluation.records):
        kept[f"{group.replace('scenes of ', '')} ({{}})"] = lambda r, group=group: r.group == group  # type: ignore[misc]
    first = [r for r in evaluation.records if r.variant == names[0] and r.done]
    lines = head(["IoU", *(label.format(sum(map(which, first))) for label, which in kept.items())])
    for name in names:
        lines.append(row([f"`{name}`", *(mean(figure(evaluation, name, "iou", which)) for which in kept.values())]))
    return lines


def ablation(evaluation: Evaluation, table: str) -> list[str]:
    """One table of the paper: ours, and what is printed there."""
    order = [v.name for v in ablation_variants([table])]
    order = [*order[1:5], FULL, *order[5:]] if table == "3a" else [*order[1:], FULL]
    lines = head(
        [TABLES[table], "IoU", f"minus {FULL}", "M", "F", "E", "S", "named", "calls", "paper: M", "F", "E", "S"]
    )
    for name in order:
        cells = [shown(figure(evaluation, name, "iou"))]
        cells.append("" if name == FULL else shown(gap(evaluation, name, FULL, "iou"), signed=True))
        cells += [mean(figure(evaluation, name, m)) for m in ("mae", "wf_b03", "e_mean", "s")]
        cells += [mean(figure(evaluation, name, "named"), 2), mean(figure(evaluation, name, "calls"), 0)]
        lines.append(row([name, *cells, *(f"{value:.3f}" for value in printed(name) or ())]))
    return lines


def order(evaluation: Evaluation) -> list[str]:
    """The steps of the order that the paper claims."""
    lines = head(["step", "IoU", "S", "M", "single object: IoU", "several objects: IoU"])
    for a, b in STEPS:
        cells = [shown(gap(evaluation, a, b, m), signed=True) for m in ("iou", "s", "mae")]
        cells += [shown(gap(evaluation, a, b, "iou", which), signed=True) for which in (one, several)]
        lines.append(row([f"{a} minus {b}", *cells]))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    evaluation = load_evaluation(parser.parse_args(arguments).evaluation)
    known = {v.name for v in ablation_variants(["all"])} - {FULL}
    names = [v.name for v in evaluation.variants if v.name not in known]
    images = {r.example for r in evaluation.records}
    out = [f"{len(images)} images, {len(evaluation.failures())} failed results", ""]
    out += ["## Strategies", "", *strategies(evaluation, names), "", *slices(evaluation, names), ""]
    for table, title in TABLES.items():
        out += [f"## {table}: {title}", "", *ablation(evaluation, table), ""]
    out += ["## Order", "", *order(evaluation)]
    sys.stdout.write("\n".join(out) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
