"""Learning curves of every arm on four annotation tasks of the miniature world: ``python -m benchmarks.learning``.

Each arm learns from n corrected images and is measured on held-out ones, with given prompts (a click, a loose box) and
end to end (``--strategy``). Every finished cell is a line of the results file, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from int_model import TaskPrompt, load_suite, make_strategy
from int_model.core.types import union
from int_model.learning.adaptation import Adaptation
from int_model.learning.applied import AdaptedStrategy
from int_model.learning.arms.outlines import overlap
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example, Target
from int_model.learning.fit import ARMS, FitOptions, Fitter, with_probes
from int_model.learning.scoring import score_all
from int_model.nano.conventions import CONVENTIONS, annotated_scene

HELD_OUT_FROM = 5000


def example(convention: str, index: int) -> Example:
    """A scene of a convention as an annotator leaves it."""
    scene = annotated_scene(convention, index)  # type: ignore[arg-type]
    return Example(scene.image, tuple(Target(scene.task, mask) for mask in scene.masks), id=str(index))


def end_to_end(strategy: Any, held: list[Example]) -> dict[str, float]:
    """Union IoU and F1 of objects at IoU 0.5 on held-out images, prompts found by the strategy itself."""
    ious, hits, found, wanted = [], 0, 0, 0
    for entry in held:
        label = entry.targets[0].label
        (result,) = strategy.segment([entry.image], TaskPrompt(label))
        masks = [instance.mask for instance in result.instances]
        ious.append(overlap(union(entry.image.shape[:2], masks), entry.mask_of(label)))
        free = [target.mask for target in entry.targets]
        found, wanted = found + len(masks), wanted + len(free)
        for mask in masks:
            best = max(range(len(free)), key=lambda i: overlap(mask, free[i]), default=None)
            if best is not None and overlap(mask, free[best]) >= 0.5:
                free.pop(best)
                hits += 1
    return {"iou": float(np.mean(ious)), "f1": 2 * hits / max(1, found + wanted)}


def figures(rows: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """The means over seeds with so many images, by task and arm, for the documents."""
    names = {"click": "a click", "box": "a loose box", "leak": "leak", "end_iou": "end to end", "end_f1": "F1"}
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["images"] == images:
            table.setdefault(f"{row['task']}: {row['arm']}", {})
    for key, own in table.items():
        same = [row for row in rows if row["images"] == images and f"{row['task']}: {row['arm']}" == key]
        for name, shown in names.items():
            values = [row[name] for row in same if row.get(name) is not None]
            if values:
                own[shown] = round(float(np.mean(values)), 3)
    seeds = sorted({row["seed"] for row in rows if row["images"] == images})
    command = f"python -m benchmarks.learning --images {images} --seeds {','.join(map(str, seeds))}"
    return {"command": command, "images": images, "seeds": len(seeds), "rows": table}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/learning.jsonl"))
    parser.add_argument("--tasks", default=",".join(CONVENTIONS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--images", default="1,2,4,8,16,32")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--strategy", default="grounded_sam", help="for the end-to-end figures; none: leave them out")
    parser.add_argument("--figures", type=Path, help="write the documents' figures of the largest number of images")
    given = parser.parse_args(arguments)
    suite = load_suite("nano")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if given.out.is_file():
        rows = [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]
        done = {(row["task"], row["arm"], row["images"], row["seed"]) for row in rows}
    held = {task: [example(task, HELD_OUT_FROM + i) for i in range(given.held_out)] for task in given.tasks.split(",")}
    for seed in map(int, given.seeds.split(",")):
        for count in map(int, given.images.split(",")):
            for task in given.tasks.split(","):
                run_cell(given, suite, done, held[task], task, count, seed)
    if given.figures:
        rows = [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]
        found = figures(rows, max(map(int, given.images.split(","))))
        given.figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def run_cell(
    given: argparse.Namespace, suite: Any, done: set[Any], held: list[Example], task: str, count: int, seed: int
) -> None:
    """All arms that are missing for one task, number of images and seed."""
    wanted = [arm for arm in (*given.arms.split(","), "probe") if (task, arm, count, seed) not in done]
    if not wanted:
        return
    examples = [example(task, 200 * seed + i) for i in range(count)]
    fitter = Fitter(suite.segmenter, FitOptions(seed=seed))
    encoded = AdaptedDecoder(suite.segmenter, Adaptation()).encode([entry.image for entry in held])
    for arm in wanted:
        started = time.perf_counter()
        probe = arm == "probe"
        adaptation = with_probes(Adaptation(), fitter.probes(examples)) if probe else fitter.fit(arm, examples)
        row: dict[str, Any] = {"task": task, "arm": arm, "images": count, "seed": seed}
        row["seconds"] = round(time.perf_counter() - started, 2)
        if arm != "probe":
            figures = score_all(AdaptedDecoder(suite.segmenter, adaptation), held, encoded)
            row["click"] = float(np.mean([entry.click for entry in figures]))
            row["box"] = float(np.mean([entry.box for entry in figures]))
            leaks = [entry.leak for entry in figures if entry.leak is not None]
            row["leak"] = float(np.mean(leaks)) if leaks else None
        if given.strategy != "none":
            strategy = AdaptedStrategy(lambda own: make_strategy(given.strategy, own), suite, adaptation)
            row |= {f"end_{name}": value for name, value in end_to_end(strategy, held).items()}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        sys.stdout.write(
            " ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()) + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
