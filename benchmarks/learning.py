"""Learning curves of every arm on four annotation tasks of the miniature world: ``python -m benchmarks.learning``.

Each arm learns from n corrected images and is measured on held-out ones, with given prompts (a click, a loose box) and
end to end (``--strategy``), without and with the probes that add boxes to the detector's. The row ``gate`` is what a
project gets: the arms judged by the gate on the n images alone, and the version that serves afterwards measured on the
held-out images. Every finished cell is a line of the results file, so a stopped run goes on.
``python -m benchmarks.learning_figures`` makes the documents' tables from such files.
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
from int_model.evaluation.regions import boundary_iou
from int_model.learning.adaptation import Adaptation
from int_model.learning.applied import AdaptedStrategy
from int_model.learning.arms.outlines import overlap
from int_model.learning.decoding import AdaptedDecoder
from int_model.learning.examples import Example, Target
from int_model.learning.fit import ARMS, FitOptions, Fitter, with_probes
from int_model.learning.learn import Learner
from int_model.learning.scoring import ask, score_all
from int_model.nano.conventions import CONVENTIONS, annotated_scene

HELD_OUT_FROM = 5000
GATE = "gate"


class FileJournal(dict[str, str]):
    """Finished steps of a judged training, kept in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
        self._path = path

    def put(self, key: str, value: str) -> None:
        """See ``int_model.learning.learn.Journal``."""
        self[key] = value
        self._path.write_text(json.dumps(self), encoding="utf-8")


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


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/learning.jsonl"))
    parser.add_argument("--tasks", default=",".join(CONVENTIONS))
    parser.add_argument("--arms", default=",".join((*ARMS, GATE)), help=f"arms, and '{GATE}'")
    parser.add_argument("--judged", default="base,slots,outlines,decoder", help="the arms that the gate compares")
    parser.add_argument("--images", default="1,2,4,8,16,32")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--strategy", default="grounded_sam", help="for the end-to-end figures; none: leave them out")
    parser.add_argument("--steps", type=int, help="optimiser steps of a trained arm, for a quick try")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing. Returns the exit status."""
    given = parse(arguments)
    suite = load_suite("nano")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if given.out.is_file():
        rows = [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]
        done = {(row["task"], row["arm"], row["images"], row["seed"]) for row in rows}
    for count in map(int, given.images.split(",")):
        for seed in map(int, given.seeds.split(",")):
            for task in given.tasks.split(","):
                wanted = [arm for arm in given.arms.split(",") if (task, arm, count, seed) not in done]
                if count < 2 and GATE in wanted:
                    wanted.remove(GATE)  # one image cannot be judged
                if wanted:
                    Cell(given, suite, task, count, seed).run(wanted)
    return 0


class Cell:
    """One task, number of images and seed."""

    def __init__(self, given: argparse.Namespace, suite: Any, task: str, count: int, seed: int) -> None:
        self._given, self._suite, self._task, self._count, self._seed = given, suite, task, count, seed
        self._examples = [example(task, 200 * seed + i) for i in range(count)]
        self._held = [example(task, HELD_OUT_FROM + i) for i in range(given.held_out)]
        self._fitter = Fitter(suite.segmenter, FitOptions(seed=seed, steps=given.steps))
        self._encoded = AdaptedDecoder(suite.segmenter, Adaptation()).encode([entry.image for entry in self._held])
        self._probes = self._fitter.probes(self._examples)

    def run(self, wanted: list[str]) -> None:
        """The arms, each a line of the results file as soon as it is measured."""
        for arm in wanted:
            started = time.perf_counter()
            row: dict[str, Any] = {"task": self._task, "arm": arm, "images": self._count, "seed": self._seed}
            if arm == GATE:
                adaptation, judged = self._judged()
            else:
                adaptation, judged = self._fitter.fit(arm, self._examples), {}  # type: ignore[arg-type]
            row["seconds"] = round(time.perf_counter() - started, 2)
            row |= judged | self._with_given_prompts(adaptation)
            if self._given.strategy != "none":
                row |= {f"end_{name}": value for name, value in self._end_to_end(adaptation).items()}
                if arm != GATE:
                    probed = self._end_to_end(with_probes(adaptation, self._probes))
                    row |= {f"probed_{name}": value for name, value in probed.items()}
            with self._given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            shown = " ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
            sys.stdout.write(shown + "\n")
            sys.stdout.flush()

    def _judged(self) -> tuple[Adaptation, dict[str, Any]]:
        """What serves after the gate's verdict, and the verdict."""
        name = f"{self._given.out.stem}-{self._task}-{self._count}-{self._seed}.journal"
        learner = Learner(
            self._fitter,
            lambda adaptation: self._strategy(adaptation),
            arms=self._given.judged.split(","),
            journal=FileJournal(self._given.out.with_name(name)),
        )
        outcome = learner.learn(self._examples)
        verdict = outcome.verdict
        row = {
            "judged": self._given.judged,
            "promoted": verdict.promoted,
            "chosen": verdict.arm,
            "gain": verdict.gain.value,
            "lower": verdict.gain.lower,
            "probes": bool(outcome.adaptation.probes),
            "reasons": list(verdict.reasons),
            "seen": dict(outcome.end_to_end),
        }
        return outcome.adaptation if verdict.promoted else Adaptation(), row

    def _strategy(self, adaptation: Adaptation) -> AdaptedStrategy:
        return AdaptedStrategy(lambda own: make_strategy(self._given.strategy, own), self._suite, adaptation)

    def _end_to_end(self, adaptation: Adaptation) -> dict[str, float]:
        return end_to_end(self._strategy(adaptation), self._held)

    def _with_given_prompts(self, adaptation: Adaptation) -> dict[str, float | None]:
        decoder = AdaptedDecoder(self._suite.segmenter, adaptation)
        figures = score_all(decoder, self._held, self._encoded)
        leaks = [entry.leak for entry in figures if entry.leak is not None]
        bands = [
            boundary_iou(decoder.mask(encoded, asked.prompt, asked.label), asked.truth)
            for entry, encoded in zip(self._held, self._encoded, strict=True)
            for asked in ask(entry, encoded)
            if asked.prompt.box is not None
        ]
        return {
            "click": float(np.mean([entry.click for entry in figures])),
            "box": float(np.mean([entry.box for entry in figures])),
            "leak": float(np.mean(leaks)) if leaks else None,
            "band": float(np.mean(bands)),
        }


if __name__ == "__main__":
    sys.exit(main())
