"""The documents' figures of ``benchmarks.learning``: ``python -m benchmarks.learning_figures RESULTS... --json F``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import GATE
from int_model.learning.fit import ARMS
from int_model.nano.conventions import CONVENTIONS

_SHOWN = {
    "click": "a click",
    "box": "a loose box",
    "band": "boundary IoU, a box",
    "leak": "leak",
    "end_iou": "end to end",
    "end_f1": "F1",
    "probed_iou": "with the probe",
    "probed_f1": "F1 with it",
    "seconds": "seconds",
}
_ORDER = (*ARMS, GATE)


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: every figure at each number of images, and the curves of the mean of clicks and boxes."""
    counts = sorted({row["images"] for row in rows})
    found: dict[str, Any] = {"command": "python -m benchmarks.learning", "held out": 40}
    for count in counts:
        found[f"n{count}"] = {
            f"{task}: {arm}": own
            for task in CONVENTIONS
            for arm in _ORDER
            if arm != GATE and (own := _means([row for row in rows if _key(row) == (task, arm, count)]))
        }
    found["curves"] = {
        f"{task}: {arm}": line
        for task in CONVENTIONS
        for arm in _ORDER
        if (line := {f"n = {count}": value for count in counts if (value := _value(rows, task, arm, count))})
    }
    found["gate"] = {
        f"{row['task']}, {row['images']} images, seed {row['seed']}": {
            "chosen": row["chosen"],
            "promoted": "yes" if row["promoted"] else "no",
            "gain": round(row["gain"], 3),
            "lower bound": round(row["lower"], 3),
            "probe": "yes" if row["probes"] and row["promoted"] else "no",
            "served, a click": round(row["click"], 3),
            "served, a box": round(row["box"], 3),
            "served, end to end": round(row["end_iou"], 3),
            "seconds": round(row["seconds"]),
        }
        for row in sorted(rows, key=lambda row: (CONVENTIONS.index(row["task"]), row["images"], row["seed"]))
        if row["arm"] == GATE
    }
    return found


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["task"], row["arm"], row["images"]


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    own: dict[str, Any] = {"seeds": len({row["seed"] for row in rows})}
    for name, shown in _SHOWN.items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            own[shown] = round(float(np.mean(values)), 3) if name != "seconds" else round(float(np.mean(values)))
    return own


def _value(rows: list[dict[str, Any]], task: str, arm: str, count: int) -> float | None:
    """The mean of clicks and boxes over seeds; None where it was not measured."""
    own = [(row["click"] + row["box"]) / 2 for row in rows if _key(row) == (task, arm, count)]
    return round(float(np.mean(own)), 3) if own else None


def main(arguments: list[str] | None = None) -> int:
    """Write what is asked for. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="results files of benchmarks.learning")
    parser.add_argument("--json", type=Path, help="write the figures of the documents")
    given = parser.parse_args(arguments)
    rows = [json.loads(line) for path in given.results for line in path.read_text(encoding="utf-8").splitlines()]
    found = figures(rows)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
