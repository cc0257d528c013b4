"""``int-backend evaluate``: strategies and variants side by side on images with known masks."""

from __future__ import annotations

import contextlib
import functools
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from int_model.core.options import parse_changes
from int_model.core.task_prompt import TaskPrompt
from int_model.evaluation import (
    METRICS,
    CocoImages,
    Evaluation,
    FolderPairs,
    Protocol,
    Selected,
    Variant,
    ablation_variants,
    evaluate,
    save_evaluation,
)
from int_model.evaluation.datasets import Examples
from int_model.evaluation.doubt import of_evaluation
from int_model.evaluation.page import render_page
from int_model.evaluation.protocol import chosen_protocol
from int_model.evaluation.seeding import seeded
from int_model.html.text import number
from int_model.io.outputs import display_name, prepare_folder, write_atomic
from int_model.models.suite import ModelSuite
from int_model.nano.cell_table import cell_table
from int_model.nano.examples import NanoScenes
from int_model.nano.worlds import DEFAULT
from int_model.strategies.model_options import ModelOptions
from int_model.strategies.registry import STRATEGIES
from ml_backend.cli.commands.evaluate import EvaluateOptions
from ml_backend.cli.options import FAILED, complain
from ml_backend.cli.progress import ProgressBar, say
from ml_backend.labelstudio.exports import ExportedExamples

DEFAULT_STRATEGIES = ("int", "vlm_box", "grounded_sam")


def run(options: EvaluateOptions, console: Console | None = None) -> int:
    """Do it; returns the exit status: 0, or 1 if a result failed. Everything is said on stderr.

    Wrong usage raises ``ValueError`` before any model is loaded, absent weights ``RuntimeError``.
    """
    told = console or Console(stderr=True, highlight=False)
    protocol, out = chosen_protocol(options.protocol), options.out
    examples, source = data_set(options, protocol)
    variants, models = chosen_variants(options), options.models.options()
    configs = models.configs([variant.strategy for variant in variants])
    for variant in variants:
        variant.configured(configs[variant.strategy])  # a misspelt option should not leave a folder
    prepare_folder(out)
    with contextlib.redirect_stdout(sys.stderr), ProgressBar(told, "evaluating") as bar:
        seeds, suites = _suites(options, models, list(configs), bar)

        def tell(done: int, total: int | None, text: str) -> None:
            bar.show(done, total, "evaluating")
            if not told.is_terminal or "IoU" not in text:
                say(told, f"{done} of {total}  {text}")

        evaluation = evaluate(
            examples,
            variants,
            suites,
            seeds=seeds,
            cache_dir=out / "results",
            configs=configs,
            protocol=protocol,
            batch_size=options.batch_size,
            pages=options.pages,
            rounds=options.rounds,
            progress=tell,
            facts=_facts(options, models, source),
            share_calls=options.share_calls,
        )
    save_evaluation(evaluation, out / "evaluation.json")
    write_atomic(out / "report.html", render_page(evaluation, out / "results", "results").encode())
    if options.cells:
        write_atomic(out / "cells.md", cell_table(evaluation, variants[0].name, options.rounds).encode())
    _summarise(evaluation, protocol, out, told)
    return FAILED if evaluation.failures() else 0


def _suites(
    options: EvaluateOptions, models: ModelOptions, strategies: Sequence[str], bar: ProgressBar
) -> tuple[Sequence[int], Callable[[int], ModelSuite]]:
    """The seeds of the models, and a function that gives the models of a seed; they are loaded when first asked for."""

    @functools.cache
    def load() -> ModelSuite:
        return models.load_suite(bar.loading, strategies=strategies)

    if options.nano is not None or not options.seeds:
        return (0,), lambda _: load()
    return options.seeds, lambda seed: seeded(load(), models.read_profile())(seed)


def _facts(options: EvaluateOptions, models: ModelOptions, source: str) -> dict[str, str]:
    shared = "each made once for all variants; its seconds are charged to every variant that uses it"
    facts = {
        "Data": source,
        "Model calls": shared if options.share_calls else "",
        "Preset": models.preset,
        "Changed": ", ".join(models.changed()),
        "Task prompt": options.task or "",
    }
    return {name: fact for name, fact in facts.items() if fact}


def data_set(options: EvaluateOptions, protocol: Protocol) -> tuple[Examples, str]:
    """The examples and one line that says where they are from. Raises ``ValueError`` for wrong usage."""
    whole, source = _whole(options, protocol)
    chosen = range(len(whole))
    if options.limit is not None:
        chosen = chosen[: options.limit]
        source += f", the first {len(chosen)}"
    if options.part is not None:
        index, _, of = options.part.partition("/")
        if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
            raise ValueError(f"'--part {options.part}' is not like 1/2: which part, of how many")
        chosen = chosen[int(index) - 1 :: int(of)]
        source += f", part {options.part}"
    if not chosen:
        raise ValueError("there are no images to evaluate")
    return Selected(whole, chosen), source


def _whole(options: EvaluateOptions, protocol: Protocol) -> tuple[Examples, str]:
    truths = {"MASKS": options.masks, "--coco": options.coco, "--label-studio": options.label_studio}
    given = [name for name, value in {**truths, "--nano": options.nano}.items() if value is not None]
    if len(given) != 1:
        what = "nothing says what is true" if not given else f"{' and '.join(given)} were given together"
        raise ValueError(f"{what}; give exactly one of MASKS, --coco FILE, --label-studio EXPORT, --nano N")
    if options.nano is not None:
        if options.images is not None or options.task is not None:
            raise ValueError("--nano brings its own images and task prompts; leave IMAGES and --task out")
        seeds = options.seeds or NanoScenes(1).seeds
        scenes = NanoScenes(options.nano, seeds, options.world, table=options.cells)
        each = " of every cell" if options.cells else ""
        which = "" if options.world == DEFAULT else f" of the world {options.world}"
        return scenes, f"{options.nano} scenes{each} of seed {', '.join(map(str, seeds))}{which}"
    if options.world != DEFAULT or options.cells:
        raise ValueError("--world and --cells choose among drawn scenes; give --nano N with them")
    if options.images is None:
        raise ValueError("give the folder of the images, IMAGES")
    if options.task is None:
        raise ValueError("give the task prompt, for instance --task 'camouflaged animal'")
    task = TaskPrompt(options.task).text
    if options.labels and options.masks is not None:
        raise ValueError("mask files have no labels; leave --label out")
    if options.masks is not None:
        pairs = FolderPairs.find(options.images, options.masks, task, truth_above=protocol.truth_above)
        return pairs, f"{display_name(options.images)} with {display_name(options.masks)}"
    if options.coco is not None:
        coco = CocoImages.read(options.coco, options.images, task, options.labels)
        return coco, f"{display_name(options.images)} with {display_name(options.coco)}"
    export = options.label_studio
    if export is None:
        raise AssertionError("one kind of truth is given")
    every = options.all_annotations
    tasks = ExportedExamples.read(export, options.images, task, options.labels, every=every, tell=complain)
    left = f", {tasks.skipped} tasks without annotation left out" if tasks.skipped else ""
    return tasks, f"{display_name(options.images)} with {display_name(export)}{left}"


def chosen_variants(options: EvaluateOptions) -> list[Variant]:
    """The rows of ablations, strategies as they are, the variants of the file, those of the command line."""
    names = options.strategies
    if names is None:
        names = DEFAULT_STRATEGIES if not (options.variants or options.variants_file) else ("int",)
        names = () if options.ablations else names
    for name in names:
        STRATEGIES.named(name)
    found = ablation_variants(options.ablations) + [Variant(name, name) for name in dict.fromkeys(names)]
    if options.variants_file is not None:
        found += _from_file(options.variants_file)
    return found + _from_options(options.variants)


def _from_options(texts: Sequence[str]) -> list[Variant]:
    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, colon, change = text.partition(":")
        if not colon or not name.strip() or "=" not in change:
            raise ValueError(f"'--variant {text}' is not NAME:KEY=VALUE; write for instance no-pnm:switches.pnm=false")
        changes.setdefault(name.strip(), {}).update(parse_changes([change]))
    return [_variant(name, table) for name, table in changes.items()]


def _from_file(path: Path) -> list[Variant]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"'{display_name(path)}' cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{display_name(path)}' is not TOML ({error})") from error
    wrong = next((name for name, table in tables.items() if not isinstance(table, Mapping)), None)
    if wrong is not None:
        raise ValueError(f"'{display_name(path)}': '{wrong}' stands outside of a table; write [NAME] above its options")
    return [_variant(name, table) for name, table in tables.items()]


def _variant(name: str, table: Mapping[str, Any]) -> Variant:
    options = {key: value for key, value in table.items() if key not in ("strategy", "note")}
    return Variant(name, str(table.get("strategy", "int")), options, str(table.get("note", "")))


def _summarise(evaluation: Evaluation, protocol: Protocol, out: Path, console: Console) -> None:
    columns = [m for m in (*protocol.headline[:4], "seconds") if any(m in row.figures for row in evaluation.summary())]
    table = Table("variant", "images", "failed", *columns)
    for row in evaluation.summary():
        known = [row.figures[metric].value if metric in row.figures else None for metric in columns]
        cells = [number(value, METRICS[metric].digits) for metric, value in zip(columns, known, strict=True)]
        table.add_row(row.variant, str(row.images), str(row.failed), *cells)
    console.print(table)
    doubt = of_evaluation(evaluation)
    if doubt is not None:
        say(console, doubt.explain())
    failed = f", {len(evaluation.failures())} results failed" if evaluation.failures() else ""
    page, data = display_name(out / "report.html"), display_name(out / "evaluation.json")
    say(
        console,
        f"{len(evaluation.records)} results{failed}; see {page} for intervals and differences, {data} for programs",
    )
