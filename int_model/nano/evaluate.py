"""The two tables of the miniature world: ``python -m int_model.nano.evaluate`` (about ten minutes on two cores).

Table 1: what each bundled model can do. Table 2: the strategies end to end, on held-out scenes (glyph poses, textures
and colours that training never shows), with bootstrap intervals. The test set is fixed by its seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from int_model.core.config import DetectorConfig, IntConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Floats, Mask, Segmentation
from int_model.evaluation.regions import overlap
from int_model.models.protocols import MaskPrompt
from int_model.nano.scenes import Scene, SceneGenerator
from int_model.nano.world import NAMES, TASKS, UNSEEN_BY_SEGMENTER
from int_model.strategies.registry import default_config, make_strategy

TEST_SEED = 2501
SCENES = 240
STRATEGIES = ("vlm_box", "grounded_sam", "int")
Rows = dict[str, list[float]]


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    return overlap(a, b)["iou"]


def bootstrap(values: Sequence[float], *, seed: int = 0, rounds: int = 10_000) -> tuple[float, float, float]:
    """Mean and its 95 % percentile bootstrap interval. Raises ``ValueError`` without values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("a bootstrap interval needs at least one value")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [data[rng.integers(0, data.size, (500, data.size))].mean(axis=1) for _ in range(rounds // 500)]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return float(data.mean()), float(low), float(high)


def held_out(index: int, camouflage: tuple[float, float] = (0.35, 0.85)) -> Scene:
    """Scene ``index`` of the held-out test set."""
    return _generator(camouflage).scene(index)


_GENERATORS: dict[tuple[float, float], SceneGenerator] = {}


def _generator(camouflage: tuple[float, float]) -> SceneGenerator:
    if camouflage not in _GENERATORS:
        _GENERATORS[camouflage] = SceneGenerator("test", TEST_SEED, camouflage=camouflage)
    return _GENERATORS[camouflage]


# ------------------------------------------------------------------ table 1: the kit


def kit_rows(suite: Any, options: DetectorConfig, index: int) -> Rows:
    """What each model does on test scene ``index``; a figure's values are its single trials."""
    scene = held_out(index)
    rows: Rows = {}
    _segmenter(rows, suite, scene)
    _clip(rows, suite, scene, "camouflaged")
    _clip(rows, suite, held_out(index, (0.0, 0.0)), "clean")
    _detector(rows, suite, options, scene)
    _vlm(rows, suite, scene)
    return rows


def _add(rows: Rows, figure: str, value: float) -> None:
    rows.setdefault(figure, []).append(value)


def _segmenter(rows: Rows, suite: Any, scene: Scene) -> None:
    embedding = suite.segmenter.encode([scene.image])[0]
    prompts = [MaskPrompt(box=thing.box) for thing in scene.targets]
    for thing, proposal in zip(scene.targets, suite.segmenter.decode(embedding, prompts), strict=True):
        iou = mask_iou(proposal.logits[proposal.best] > 0, thing.mask)
        _add(rows, "SAM, box prompt: mean IoU", iou)
        if thing.name in UNSEEN_BY_SEGMENTER:
            _add(rows, "SAM, box prompt: mean IoU, animals never shown to it", iou)


def _clip(rows: Rows, suite: Any, scene: Scene, kind: str) -> None:
    texts = suite.text_image.embed_texts([f"a photo of a {name}." for name in NAMES])
    crops = []
    for thing in scene.targets:
        box = thing.box.enlarge(0.12).clip(*scene.image.shape[:2])
        if box is None:
            continue
        x1, y1, x2, y2 = (round(v) for v in box.as_tuple())
        crops.append(np.ascontiguousarray(scene.image[y1:y2, x1:x2]))
    for scores in suite.text_image.embed_images(crops) @ texts.T:
        _add(rows, f"CLIP: name of {kind} crops (of {len(NAMES)})", float(NAMES[int(scores.argmax())] == scene.name))


def _detector(rows: Rows, suite: Any, options: DetectorConfig, scene: Scene) -> None:
    for figure, query in (("true name", scene.name), ("task prompt", scene.task)):
        found = suite.detector.detect(
            [scene.image], [query], box_threshold=options.box_threshold, text_threshold=options.text_threshold
        )[0]
        for thing in scene.targets:
            hit = any(detection.box.iou(thing.box) >= 0.5 for detection in found)
            _add(rows, f"Detector, asked for the {figure}: recall at IoU 0.5", float(hit))
        for detection in found:
            right = any(detection.box.iou(thing.box) >= 0.5 for thing in scene.targets)
            _add(rows, f"Detector, asked for the {figure}: precision at IoU 0.5", float(right))


def _vlm(rows: Rows, suite: Any, scene: Scene) -> None:
    task = TaskPrompt(scene.task)
    (answers,) = suite.vlm.dialogue([scene.image], [task.dialogue], [48, 8, 8, 32])
    _add(rows, "VLM: name (dialogue, whole image)", float(answers[1].strip().lower() == scene.name))
    _add(rows, "VLM: environment", float(answers[2].strip().lower() == scene.environment))
    names = list(TASKS[scene.task].names)
    (scores,) = suite.vlm.score([scene.image], [task.score_question(names)], [names])
    _add(rows, "VLM: name (scored, all names of the task)", float(names[int(np.argmax(scores))] == scene.name))


# ------------------------------------------------------------------ table 2: strategies


def strategy_row(strategy: str, scene: Scene, result: Segmentation, seconds: float) -> dict[str, Any]:
    """One strategy on one scene."""
    row = {
        "task": scene.task,
        "iou": mask_iou(result.mask, scene.mask),
        "named": float(result.name == scene.name),
        "seconds": seconds,
        "calls": dict(result.trace.calls),
        "instances": len(result.instances),
        "true_instances": len(scene.targets),
    }
    if strategy == "int":
        row["contrast"] = name_contrasts(result, scene)
    return row


def name_contrasts(result: Segmentation, scene: Scene) -> dict[str, float]:
    """Best D over the patches, in iteration 1, of the true name and of the strongest wrong one, if both stood."""
    if not result.trace.iterations or scene.name not in result.trace.names or len(result.trace.names) < 2:
        return {}
    first = result.trace.iterations[0]
    change = (first.p_original - first.p_inpainted).max(axis=0)
    true = result.trace.names.index(scene.name)
    return {"true": float(change[true]), "wrong": float(np.delete(change, true).max())}


# ------------------------------------------------------------------ work over processes


@dataclass(frozen=True, slots=True)
class Job:
    """A slice of the test set for one process."""

    indices: tuple[int, ...]
    profile: str
    strategies: tuple[str, ...]
    variants: tuple[tuple[str, str], ...] = ()  # (label, JSON of IntConfig overrides): `int` with other options
    batch: int = 4


def run_job(job: Job) -> dict[str, Any]:
    """Load the models once, go through the scenes; returns kit rows and strategy rows by scene index."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from int_model.models.suite import load_suite

    torch.set_num_threads(1)
    suite = load_suite(job.profile, device="cpu", offline=True)
    config = IntConfig().merged(suite.int_overrides)
    kit = [kit_rows(suite, config.detector, index) for index in job.indices]
    runs = [(name, name, default_config(name, suite.int_overrides)) for name in job.strategies]
    runs += [(label, "int", config.merged(json.loads(text))) for label, text in job.variants]
    table: dict[str, dict[int, dict[str, Any]]] = {}
    for label, name, options in runs:
        strategy = make_strategy(name, suite, options)
        rows = table.setdefault(label, {})
        for task in TASKS:
            own = [i for i in job.indices if held_out(i).task == task]
            for start in range(0, len(own), job.batch):
                part = own[start : start + job.batch]
                scenes = [held_out(i) for i in part]
                begun = time.perf_counter()
                results = strategy.segment([scene.image for scene in scenes], TaskPrompt(task))
                seconds = (time.perf_counter() - begun) / len(part)
                for i, scene, result in zip(part, scenes, results, strict=True):
                    rows[i] = strategy_row(name, scene, result, seconds)
    return {"kit": kit, "strategies": table}


def evaluate(
    count: int = SCENES,
    *,
    profile: str = "nano",
    processes: int | None = None,
    strategies: Sequence[str] = STRATEGIES,
    variants: Sequence[tuple[str, str]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """All figures on the first ``count`` test scenes: ``{"kit": {figure: values}, "strategies": {name: [rows]}}``."""
    processes = processes or os.cpu_count() or 1
    size = max(1, -(-count // (processes * 3)))
    jobs = [
        Job(tuple(range(start, min(count, start + size))), profile, tuple(strategies), tuple(variants))
        for start in range(0, count, size)
    ]
    kit: Rows = {}
    table: dict[str, dict[int, dict[str, Any]]] = {}
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        for done, part in enumerate(pool.imap_unordered(run_job, jobs), start=1):
            for rows in part["kit"]:
                for figure, values in rows.items():
                    kit.setdefault(figure, []).extend(values)
            for name, by_index in part["strategies"].items():
                table.setdefault(name, {}).update(by_index)
            if progress is not None:
                progress(done, len(jobs))
    return {"kit": kit, "strategies": {name: [rows[i] for i in sorted(rows)] for name, rows in table.items()}}


# ------------------------------------------------------------------ printing


def _interval(values: Sequence[float]) -> str:
    mean, low, high = bootstrap(values)
    return f"{mean:.3f}  [{low:.3f}, {high:.3f}]"


def kit_table(kit: Rows) -> Table:
    """Table 1."""
    table = Table("figure", "value  [95 %]", "trials", title="1. The bundled models, each alone")
    for figure in sorted(kit):
        table.add_row(figure, _interval(kit[figure]), str(len(kit[figure])))
    return table


def strategy_table(rows: dict[str, list[dict[str, Any]]]) -> Table:
    """Table 2: mean IoU of the union mask, over all scenes and by task; the paired difference to ``vlm_box``."""
    table = Table(
        "strategy", "mIoU  [95 %]", *TASKS, "minus vlm_box  [95 %]", "named", "s / image", title="2. End to end"
    )
    base = np.array([row["iou"] for row in rows["vlm_box"]]) if "vlm_box" in rows else None
    for name, own in rows.items():
        iou: Floats = np.array([row["iou"] for row in own])
        by_task = []
        for task in TASKS:
            values = [row["iou"] for row in own if row["task"] == task]
            by_task.append(f"{np.mean(values):.3f}" if values else "-")
        difference = "" if base is None or name == "vlm_box" else _interval((iou - base).tolist())
        named = f"{np.mean([row['named'] for row in own]):.2f}" if name not in {"vlm_box", "grounded_sam"} else "-"
        seconds = f"{np.mean([row['seconds'] for row in own]):.2f}"
        table.add_row(name, _interval(iou.tolist()), *by_task, difference, named, seconds)
    return table


def contrast_line(rows: Sequence[dict[str, Any]]) -> str:
    """Whether a wrong name, backed by context, moves less than the true one when the object is painted out."""
    pairs = [row["contrast"] for row in rows if row.get("contrast")]
    if not pairs:
        return "No scene had both the true name and a wrong one among its candidates."
    gap = [pair["true"] - pair["wrong"] for pair in pairs]
    share = np.mean([value > 0 for value in gap])
    return (
        f"D of the true name minus D of the strongest wrong one, {len(pairs)} scenes that had both: "
        f"{_interval(gap)}; positive in {share:.0%}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Print both tables; ``--json FILE`` keeps every single value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SCENES, help="test scenes, from the first")
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--variant", nargs=2, action="append", default=[], metavar=("LABEL", "JSON"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    started = time.monotonic()
    result = evaluate(
        options.count,
        profile=options.profile,
        processes=options.processes,
        strategies=options.strategies,
        variants=[(label, text) for label, text in options.variant],
        progress=lambda done, total: print(f"part {done} of {total}", file=sys.stderr, flush=True),  # noqa: T201
    )
    console.print(kit_table(result["kit"]))
    console.print(strategy_table(result["strategies"]))
    if "int" in result["strategies"]:
        rows = result["strategies"]["int"]
        console.print(contrast_line(rows))
        calls = {key: round(float(np.mean([r["calls"].get(key, 0) for r in rows])), 1) for key in rows[0]["calls"]}
        console.print(f"INT's model calls per image: {calls}")
    console.print(f"{options.count} scenes in {time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
