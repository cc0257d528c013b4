"""The two tables of the miniature world: ``python -m int_model.nano.evaluate`` (about ten minutes on two cores).

Table 1: what each bundled model can do alone. Table 2: the strategies end to end, by ``int_model.evaluation``. Both are
of held-out scenes (glyph poses, textures and colours that training never shows), which are fixed by their seed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from int_model.core.config import DetectorConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.evaluation import Evaluation, Interval, Record, Selected, Variant, evaluate
from int_model.evaluation.records import pack_record
from int_model.evaluation.regions import overlap
from int_model.evaluation.result import conclude
from int_model.evaluation.statistics import mean_interval
from int_model.models.protocols import MaskPrompt
from int_model.nano.examples import NanoScenes
from int_model.nano.scenes import Scene, SceneGenerator
from int_model.nano.world import NAMES, TASKS, UNSEEN_BY_SEGMENTER

TEST_SEED = 2501
SCENES = 240
STRATEGIES = ("vlm_box", "grounded_sam", "int")
BASELINE = "vlm_box"
ROUNDS = 10_000
Rows = dict[str, list[float]]


def held_out(index: int, camouflage: tuple[float, float] = (0.35, 0.85)) -> Scene:
    """Scene ``index`` of the held-out test set."""
    return _generator(camouflage).scene(index)


@functools.cache
def _generator(camouflage: tuple[float, float]) -> SceneGenerator:
    return SceneGenerator("test", TEST_SEED, camouflage=camouflage)


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
        iou = overlap(proposal.logits[proposal.best] > 0, thing.mask)["iou"]
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


def run_part(profile: str, variants: Sequence[Variant], count: int, of: int, index: int) -> tuple[Rows, Evaluation]:
    """Load the models once, go through every ``of``-th of the first ``count`` scenes, from ``index`` on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from int_model.models.suite import load_suite
    from int_model.strategies.registry import default_config

    torch.set_num_threads(1)
    suite = load_suite(profile, device="cpu", offline=True)
    options: Any = default_config("grounded_sam", suite.int_overrides)
    own = range(index, count, of)
    kit = joined(kit_rows(suite, options.detector, i) for i in own)
    scenes = Selected(NanoScenes(count, (TEST_SEED,)), own)
    return kit, evaluate(scenes, variants, suite, rounds=1)


def joined(parts: Iterable[Rows]) -> Rows:
    """The trials of all parts, by figure."""
    rows: Rows = {}
    for part in parts:
        for figure, values in part.items():
            rows.setdefault(figure, []).extend(values)
    return rows


def run(count: int, profile: str, processes: int, variants: Sequence[Variant]) -> tuple[Rows, Evaluation]:
    """All figures of the first ``count`` test scenes, made in several processes."""
    parts = min(count, processes * 3)
    job = functools.partial(run_part, profile, variants, count, parts)
    done = []
    with multiprocessing.get_context("spawn").Pool(min(processes, parts)) as pool:
        for outcome in pool.imap_unordered(job, range(parts)):
            done.append(outcome)
            print(f"part {len(done)} of {parts}", file=sys.stderr, flush=True)  # noqa: T201
    first = done[0][1]
    order = [variant.name for variant in first.variants]
    records = [record for _, evaluation in done for record in evaluation.records]
    records.sort(key=lambda record: (order.index(record.variant), record.example))
    metrics = ("iou", "named", "seconds", "calls", "contrast")
    setting = replace(first.setting, rounds=ROUNDS)
    return joined(rows for rows, _ in done), conclude(setting, first.variants, records, metrics)


# ------------------------------------------------------------------ printing


def _shown(figure: Interval) -> str:
    return f"{figure.value:.3f}  [{figure.low:.3f}, {figure.high:.3f}]"


def kit_table(kit: Rows) -> Table:
    """Table 1."""
    table = Table("figure", "value  [95 %]", "trials", title="1. The bundled models, each alone")
    for figure in sorted(kit):
        table.add_row(figure, _shown(mean_interval(kit[figure], ROUNDS)), str(len(kit[figure])))
    return table


def strategy_table(evaluation: Evaluation) -> Table:
    """Table 2: mean IoU of the union mask, over all scenes and by task; the paired difference to ``vlm_box``."""
    minus = f"minus {BASELINE}  [95 %]"
    table = Table("strategy", "mIoU  [95 %]", *TASKS, minus, "named", "s / image", title="2. End to end")
    by_task = {(row.slice, row.variant): row["iou"].value for row in evaluation.summaries}
    compared = any(variant.name == BASELINE for variant in evaluation.variants)
    for row in evaluation.summary():
        tasks = [by_task.get((f"task: {task}", row.variant)) for task in TASKS]
        gap = evaluation.difference(row.variant, BASELINE, "iou") if compared and row.variant != BASELINE else None
        named = row.figures.get("named")
        table.add_row(
            row.variant,
            _shown(row["iou"]),
            *("-" if value is None else f"{value:.3f}" for value in tasks),
            "" if gap is None else _shown(gap.interval),
            "-" if named is None else f"{named.value:.2f}",
            f"{row['seconds'].value:.2f}",
        )
    return table


def contrast_line(records: Sequence[Record]) -> str:
    """Whether a wrong name, backed by context, moves less than the true one when the object is painted out."""
    gaps = [gap for record in records if (gap := record.metrics.get("contrast")) is not None]
    if not gaps:
        return "No scene had both the true name and a wrong one among its candidates."
    return (
        f"D of the true name minus D of the strongest wrong one, {len(gaps)} scenes that had both: "
        f"{_shown(mean_interval(gaps, ROUNDS))}; positive in {np.mean([gap > 0 for gap in gaps]):.0%}."
    )


def figures(kit: Rows, evaluation: Evaluation, count: int) -> dict[str, Any]:
    """The figures that the documents quote, as plain data: ``[value, low, high]`` where there is an interval.

    Seconds are left out: they say something only of a machine that did nothing else.
    """
    rows: dict[str, dict[str, Any]] = {}
    tasks = {(row.slice, row.variant): row["iou"].value for row in evaluation.summaries}
    compared = any(variant.name == BASELINE for variant in evaluation.variants)
    for row in evaluation.summary():
        own: dict[str, Any] = {"iou": _plain(row["iou"])}
        own |= {t: round(tasks[f"task: {t}", row.variant], 3) for t in TASKS if (f"task: {t}", row.variant) in tasks}
        if compared and row.variant != BASELINE:
            own["gain"] = _plain(evaluation.difference(row.variant, BASELINE, "iou").interval)
        rows[row.variant] = own
    return {
        "command": f"python -m int_model.nano.evaluate --count {count} --figures docs/figures/nano.json",
        "scenes": count,
        "kit": {figure: _plain(mean_interval(values, ROUNDS)) for figure, values in sorted(kit.items())},
        "strategies": rows,
    }


def _plain(interval: Interval) -> list[float]:
    return [round(interval.value, 3), round(interval.low, 3), round(interval.high, 3)]


def main(arguments: list[str] | None = None) -> int:
    """Print both tables; ``--json FILE`` keeps every single value, ``--figures FILE`` those of the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SCENES, help="test scenes, from the first")
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--variant", nargs=2, action="append", default=[], metavar=("LABEL", "JSON"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    started = time.monotonic()
    variants = [Variant(name, name) for name in options.strategies]
    variants += [Variant(label, config=json.loads(text)) for label, text in options.variant]
    kit, evaluation = run(options.count, options.profile, options.processes, variants)
    console.print(kit_table(kit))
    console.print(strategy_table(evaluation))
    own = [record for record in evaluation.records if record.variant == "int"]
    if own:
        console.print(contrast_line(own))
        calls = {role: round(float(np.mean([r.calls.get(role, 0) for r in own])), 1) for role in own[0].calls}
        console.print(f"INT's model calls per image: {calls}")
    console.print(f"{options.count} scenes in {time.monotonic() - started:.0f} s")
    if options.figures:
        found = figures(kit, evaluation, options.count)
        options.figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.json:
        records = ", ".join(pack_record(replace(record, curves={})).decode() for record in evaluation.records)
        options.json.write_text(f'{{"kit": {json.dumps(kit)}, "records": [{records}]}}')
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
