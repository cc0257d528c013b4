"""Variants on drawn worlds, scene by scene: what pays, where, and at which cost.

    python -m benchmarks.worlds run --set options --worlds home,mosaic --seeds 31,32 --count 60 --processes 8 --out r
    python -m benchmarks.worlds table r --baseline grounded_sam

``run`` appends a line of JSON per scene and variant to ``OUT/*.jsonl``, and goes on where it was stopped. All variants
of a scene share their calls, so a second variant costs only what it asks anew; ``seconds`` and ``calls`` are those of a
variant that shares nothing. ``table`` reads the lines: means, and paired differences with 95 % bootstrap intervals over
scenes (seeds are sets of scenes; the models are deterministic), single and several targets apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.variants import SETS, UNDOUBTED
from int_model.core.task_prompt import TaskPrompt
from int_model.evaluation.doubt import Case, fit
from int_model.evaluation.examples import Example, Variant
from int_model.evaluation.protocol import score
from int_model.evaluation.sharing import SharedCalls
from int_model.evaluation.statistics import Interval, draw, interval
from int_model.models.suite import ModelSuite, load_suite
from int_model.nano.examples import NanoScenes
from int_model.strategies.base import Strategy
from int_model.strategies.model_options import ModelOptions
from int_model.strategies.registry import make_strategy

ROUNDS = 10_000
Line = dict[str, Any]
KEPT = ("iou", "mae", "s", "wf_b03", "e_mean", "named", "empty", "contrast", "confidence")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process works on: its scenes, the variants, where the lines go, when to stop (seconds since 1970)."""

    worlds: tuple[str, ...]
    seeds: tuple[int, ...]
    count: int
    cells: bool
    variants: tuple[Variant, ...]
    preset_of: Mapping[str, str]
    profile: str
    out: Path
    until: float

    def scenes(self) -> Iterator[tuple[str, int, Example]]:
        """All scenes, worlds and seeds in turn, so that a run that is cut short is balanced."""
        sets = {
            (world, seed): NanoScenes(self.count, (seed,), world=world, table=self.cells)
            for world in self.worlds
            for seed in self.seeds
        }
        order = range(len(next(iter(sets.values()))))
        if self.cells:  # the cells in turn, too
            order = [place for start in range(self.count) for place in range(start, len(order), self.count)]  # type: ignore[assignment]
        for place, (world, seed) in itertools.product(order, sets):
            yield world, seed, sets[world, seed][place]


def work(plan: Plan, part: int, parts: int) -> None:
    """Every ``parts``-th scene from ``part`` on."""
    done = {(line["world"], line["id"], line["variant"], line["profile"]) for line in read(plan.out)}
    models = ModelOptions(profile=plan.profile)
    suite = load_suite(models.read_profile(), device="cpu")
    with (plan.out / f"part-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        for world, seed, example in itertools.islice(plan.scenes(), part, None, parts):
            todo = [v for v in plan.variants if (world, example.id, v.name, plan.profile) not in done]
            if time.time() > plan.until:
                return
            if todo:
                _scene(plan, suite, todo, {"world": world, "seed": seed, "profile": plan.profile}, example, file)


def _scene(plan: Plan, suite: ModelSuite, todo: Sequence[Variant], about: Line, example: Example, file: Any) -> None:
    shared = SharedCalls()
    models = shared.over(suite)
    for variant in todo:
        strategy = _strategy(plan, variant, models)
        saved, begun = shared.saved, time.perf_counter()
        (found,) = strategy.segment([example.image], TaskPrompt(example.task))
        seconds = time.perf_counter() - begun + shared.saved - saved
        figures = score(found, example.truth, example.instances, example.name).metrics
        counts = dict(found.trace.calls)
        line = {
            **about,
            "id": example.id,
            "cell": example.group,
            "variant": variant.name,
            "targets": len(example.instances or ()),
            **{name: _rounded(figures.get(name)) for name in KEPT},
            "score": round(found.score, 4),
            "name": found.name,
            "iterations": len(found.trace.iterations),
            "sources": [iteration.box_source for iteration in found.trace.iterations],
            "notes": len(found.trace.notes),
            "witnesses": {key: round(value, 4) for key, value in found.trace.witnesses.items()},
            "calls": sum(counts.values()),
            "roles": counts,
            "seconds": round(seconds, 4),
        }
        file.write(json.dumps(line) + "\n")
    file.flush()


def _strategy(plan: Plan, variant: Variant, suite: ModelSuite) -> Strategy:
    models = options_of(variant, plan.preset_of.get(variant.name, ""), plan.profile)
    return make_strategy(variant.strategy, suite, models.config())


def options_of(variant: Variant, preset: str, profile: str) -> ModelOptions:
    """The variant's configuration over the models of a profile."""
    return ModelOptions(profile=profile, strategy=variant.strategy, preset=preset, changes=variant.config)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)


def read(folder: Path) -> list[Line]:
    """All lines; a line that was cut off is left out."""
    lines: list[Line] = []
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


# ------------------------------------------------------------------ tables


def paired(rows: Mapping[str, Mapping[str, Line]], a: str, b: str, metric: str, scenes: Sequence[str]) -> Interval:
    """``a`` minus ``b`` on the scenes that both did."""
    both = [scene for scene in scenes if scene in rows[a] and scene in rows[b]]
    gaps = np.array([rows[a][scene][metric] - rows[b][scene][metric] for scene in both], dtype=np.float64)
    if not len(gaps):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    _, counts = draw(both, ROUNDS)
    return interval(float(gaps.mean()), counts @ gaps / len(gaps), len(both))


def table(lines: Sequence[Line], baseline: str, metric: str = "iou", by: str = "world") -> list[Line]:
    """A row per slice (``by``), kind of scene (all, one, several, empty) and variant."""
    out: list[Line] = []
    for place in sorted({(line["profile"], line[by]) for line in lines}):
        own = [line for line in lines if (line["profile"], line[by]) == place]
        rows: dict[str, dict[str, Line]] = {}
        for line in own:
            rows.setdefault(line["variant"], {})[f"{line['world']} {line['id']}"] = line
        targets = {f"{line['world']} {line['id']}": line["targets"] for line in own}
        kinds = {
            "all": list(targets),
            "one": [s for s, n in targets.items() if n == 1],
            "several": [s for s, n in targets.items() if n > 1],
            "empty": [s for s, n in targets.items() if n == 0],
        }
        for (kind, scenes), variant in itertools.product(kinds.items(), rows):
            known = [rows[variant][s] for s in scenes if s in rows[variant]]
            if known:
                out.append(_row(place, kind, variant, known, paired(rows, variant, baseline, metric, scenes), metric))
    return out


def _row(place: tuple[str, str], kind: str, variant: str, known: Sequence[Line], gap: Interval, metric: str) -> Line:
    def mean(name: str) -> float | None:
        values = [line[name] for line in known if line.get(name) is not None]
        return round(float(np.mean(values)), 4) if values else None

    return {
        "profile": place[0],
        "slice": place[1],
        "scenes": kind,
        "variant": variant,
        "n": len(known),
        metric: mean(metric),
        "minus": [round(v, 4) for v in (gap.value, gap.low, gap.high)],
        "paired": gap.images,
        **{name: mean(name) for name in ("named", "empty", "calls", "seconds", "iterations")},
    }


def show(rows: Sequence[Line], metric: str) -> None:
    """The rows as text."""
    last: Any = None
    for row in rows:
        here = row["profile"], row["slice"], row["scenes"]
        if here != last:
            print(f"\n{' / '.join(here)} (n = {row['n']})")  # noqa: T201
            last = here
        low = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["minus"])
        named = "    -" if row["named"] is None else f"{row['named']:.2f}"
        print(  # noqa: T201
            f"  {row['variant']:<26}{row[metric]:.3f}  {low}  named {named}  "
            f"calls {row['calls']:6.1f}  s {row['seconds']:.2f}  I {row['iterations']:.1f}"
        )


def put_figures(rows: Sequence[Line], file: Path, section: str, baseline: str) -> None:
    """Put the rows of all scenes of each slice into a file of ``docs/figures``: per variant IoU, difference, calls."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["scenes"] == "all":
            own = found.setdefault(row["variant"], {})
            own[f"{row['slice']} ({row['paired']})"] = row["iou"]
            if row["variant"] != baseline:
                own[f"{row['slice']}, minus `{baseline}`"] = row["minus"]
    for variant, own in found.items():
        own["calls"] = round(
            float(np.mean([r["calls"] for r in rows if r["variant"] == variant and r["scenes"] == "all"]))
        )
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data[section] = found
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """``run`` or ``table``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="scenes x variants, appended to OUT")
    runs.add_argument("--set", dest="chosen", choices=sorted(SETS), default="presets", help="which variants")
    runs.add_argument("--only", action="append", default=[], help="of the set only this one; may be given again")
    runs.add_argument("--worlds", default="home,mosaic")
    runs.add_argument("--seeds", default="31,32,33")
    runs.add_argument("--count", type=int, default=100, help="scenes of each world and seed (and cell)")
    runs.add_argument("--cells", action="store_true", help="so many scenes of every cell")
    runs.add_argument("--profile", default="nano")
    runs.add_argument("--processes", type=int, default=1)
    runs.add_argument("--seconds", type=float, default=0.0, help="stop after so long; 0: never")
    runs.add_argument("--out", type=Path, required=True)
    doubts = commands.add_parser("doubt", help="what auto would have given, from grounded_sam's witnesses and two ways")
    doubts.add_argument("folder", type=Path)
    doubts.add_argument("--dear", default="int", help="the variant that is asked in doubt")
    doubts.add_argument("--worlds", default="", help="only these, separated by commas")
    doubts.add_argument("--threshold", type=float, help="a threshold fitted elsewhere; without it one is fitted here")
    doubts.add_argument("--witnesses", default="detector,segmenter,clip")
    tables = commands.add_parser("table", help="means and paired differences")
    tables.add_argument("folder", type=Path)
    tables.add_argument("--baseline", default="grounded_sam")
    tables.add_argument("--metric", default="iou")
    tables.add_argument(
        "--by", choices=("world", "cell", "profile"), default="world", help="profile: all worlds at once"
    )
    tables.add_argument("--json", action="store_true")
    tables.add_argument("--figures", type=Path, help="put the rows into this file of docs/figures")
    tables.add_argument("--section", default="choice", help="under this name")
    given = parser.parse_args(arguments)
    if given.command == "table":
        rows = table(read(given.folder), given.baseline, given.metric, given.by)
        if given.figures:
            put_figures(rows, given.figures, given.section, given.baseline)
        elif given.json:
            json.dump(rows, sys.stdout, indent=1)
        else:
            show(rows, given.metric)
        return 0
    if given.command == "doubt":
        worlds = [name for name in given.worlds.split(",") if name]
        print(doubt(read(given.folder), given.dear, worlds, given.witnesses.split(","), given.threshold))  # noqa: T201
        return 0
    return _run(given)


def doubt(
    lines: Sequence[Line], dear: str, worlds: Sequence[str], chosen: Sequence[str], threshold: float | None
) -> str:
    """What ``auto`` gives: fitted on these scenes, or at a ``threshold`` from elsewhere with paired differences."""
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        if not worlds or line["world"] in worlds:
            rows.setdefault(f"{line['profile']} {line['world']} {line['id']}", {})[line["variant"]] = line
    both = [own for own in rows.values() if {UNDOUBTED, "grounded_sam", dear} <= own.keys()]
    cases = [_case(own, dear, chosen) for own in both]
    if threshold is None:
        return fit(cases).explain()
    asked = np.array([case.confidence < threshold for case in cases])
    ours = np.where(asked, [case.dear for case in cases], [case.cheap for case in cases])
    calls = np.mean([case.cheap_calls + case.dear_calls * a for case, a in zip(cases, asked, strict=True)])
    always = np.mean([case.dear_calls for case in cases])
    _, counts = draw([str(i) for i in range(len(cases))], ROUNDS)
    text = f"{len(cases)} scenes, auto.threshold={threshold}: IoU {ours.mean():.3f}, {calls:.0f} calls "
    text += f"({dear}: {always:.0f}), INT asked for {asked.mean():.0%}"
    for name, other in ((dear, [case.dear for case in cases]), ("grounded_sam", [case.cheap for case in cases])):
        gaps = ours - np.array(other)
        gap = interval(float(gaps.mean()), counts @ gaps / len(gaps), len(gaps))
        text += f"; minus {name} {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    return text


def _case(own: Mapping[str, Line], dear: str, chosen: Sequence[str]) -> Case:
    told = [own[UNDOUBTED]["witnesses"].get(name, 0.0) for name in chosen]
    one, two = own["grounded_sam"], own[dear]
    sure = float(np.prod(told) ** (1 / len(told)))
    return Case(sure, one["iou"], two["iou"], own[UNDOUBTED]["calls"], two["calls"])


def _run(given: argparse.Namespace) -> int:
    given.out.mkdir(parents=True, exist_ok=True)
    entries = [entry for entry in SETS[given.chosen] if not given.only or entry.variant.name in given.only]
    plan = Plan(
        worlds=tuple(given.worlds.split(",")),
        seeds=tuple(int(seed) for seed in given.seeds.split(",")),
        count=given.count,
        cells=given.cells,
        variants=tuple(entry.variant for entry in entries),
        preset_of={entry.variant.name: entry.preset for entry in entries},
        profile=given.profile,
        out=given.out,
        until=time.time() + given.seconds if given.seconds else float("inf"),
    )
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(plan, part, given.processes)) for part in range(given.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return int(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    sys.exit(main())
