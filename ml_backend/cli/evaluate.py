"""``int-backend evaluate``: strategies and variants side by side on images with known masks."""

from __future__ import annotations

import contextlib
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from int_model.core.config import StrategyConfig
from int_model.core.options import parse_changes
from int_model.core.task_prompt import TaskPrompt
from int_model.evaluation import (
    PROTOCOLS,
    CocoImages,
    Evaluation,
    FolderPairs,
    NanoScenes,
    Protocol,
    Shard,
    Variant,
    ablation_variants,
    evaluate,
    save_evaluation,
)
from int_model.evaluation.datasets import Examples
from int_model.evaluation.page import render_page
from int_model.evaluation.seeding import seeded
from int_model.html.text import number
from int_model.io.outputs import display_name, write_atomic
from int_model.models.suite import ModelSuite
from int_model.strategies.model_options import ModelOptions
from int_model.strategies.registry import STRATEGIES
from ml_backend.cli.commands.evaluate import EvaluateOptions
from ml_backend.cli.options import complain
from ml_backend.labelstudio.exports import ExportedExamples

DEFAULT_STRATEGIES = ("int", "vlm_box", "grounded_sam")


@dataclass(frozen=True)
class First:
    """The first ``count`` examples of a data set."""

    whole: Examples
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.whole))

    def __iter__(self) -> Any:
        return islice(iter(self.whole), self.count)


def run(options: EvaluateOptions, console: Console | None = None) -> int:
    """Do it; returns the exit status: 0, or 1 if a result failed. Everything is said on stderr.

    Wrong usage raises ``ValueError`` before any model is loaded, absent weights ``RuntimeError``.
    """
    told = console or Console(stderr=True, highlight=False)
    if options.protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol '{options.protocol}'; choose one of: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[options.protocol]
    examples, source = data_set(options, protocol)
    variants = chosen_variants(options)
    models = options.models.options()
    configs = models.configs([variant.strategy for variant in variants])
    for variant in variants:
        variant.configured(configs[variant.strategy])  # a misspelt option should not wait for the models
    store = options.out / "results"
    with contextlib.redirect_stdout(sys.stderr), _bar(told) as bar:
        evaluation = _evaluate(options, models, examples, variants, configs, protocol, store, source, bar)
    save_evaluation(evaluation, options.out / "evaluation.json")
    write_atomic(options.out / "report.html", render_page(evaluation, store, "results").encode())
    _say(evaluation, protocol, options.out, told)
    return 1 if evaluation.failures() else 0


def data_set(options: EvaluateOptions, protocol: Protocol) -> tuple[Examples, str]:
    """The examples and one line that says where they are from. Raises ``ValueError`` for wrong usage."""
    whole, source = _whole(options, protocol)
    if options.limit is not None:
        whole, source = First(whole, options.limit), f"{source}, the first {min(options.limit, len(whole))}"
    if options.part is not None:
        index, _, of = options.part.partition("/")
        if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
            raise ValueError(f"'--part {options.part}' is not like 1/2: which part, of how many")
        whole, source = Shard(whole, int(index) - 1, int(of)), f"{source}, part {options.part}"
    if len(whole) == 0:
        raise ValueError("there are no images to evaluate")
    return whole, source


def _whole(options: EvaluateOptions, protocol: Protocol) -> tuple[Examples, str]:
    given = [
        name
        for name, value in (
            ("MASKS", options.masks),
            ("--coco", options.coco),
            ("--label-studio", options.label_studio),
            ("--nano", options.nano),
        )
        if value is not None
    ]
    if len(given) != 1:
        what = "nothing says what is true" if not given else f"{' and '.join(given)} were given together"
        raise ValueError(f"{what}; give exactly one of MASKS, --coco FILE, --label-studio EXPORT, --nano N")
    if options.nano is not None:
        if options.images is not None or options.task is not None:
            raise ValueError("--nano brings its own images and task prompts; leave IMAGES and --task out")
        seeds = options.seeds or NanoScenes(1).seeds
        return NanoScenes(options.nano, seeds), f"{options.nano} scenes of seed {', '.join(map(str, seeds))}"
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


def _evaluate(
    options: EvaluateOptions,
    models: ModelOptions,
    examples: Examples,
    variants: Sequence[Variant],
    configs: Mapping[str, StrategyConfig],
    protocol: Protocol,
    store: Path,
    source: str,
    bar: Progress,
) -> Evaluation:
    row = bar.add_task("loading models", total=None)
    suite = models.load_suite(
        lambda role, _done, _total: bar.update(row, description=f"loading {role}"), strategies=list(configs)
    )
    model_seeds = () if options.nano is not None else options.seeds
    suites: ModelSuite | Callable[[int], ModelSuite] = seeded(suite, models.read_profile()) if model_seeds else suite
    facts = {"Data": source}
    if options.share_calls:
        facts["Model calls"] = "each made once for all variants; its seconds are charged to every variant that uses it"
    if models.preset:
        facts["Preset"] = models.preset
    if models.changes:
        facts["Changed"] = ", ".join(models.changed())
    if options.task:
        facts["Task prompt"] = options.task

    def tell(done: int, total: int | None, text: str) -> None:
        bar.update(row, completed=done, total=total, description="evaluating")
        if not bar.console.is_terminal or "IoU" not in text:
            printable = "".join(c if c.isprintable() else "?" for c in text)
            bar.console.print(f"{done} of {total}  {printable}", markup=False, soft_wrap=True)

    return evaluate(
        examples,
        variants,
        suites,
        seeds=model_seeds or (0,),
        cache_dir=store,
        configs=configs,
        protocol=protocol,
        batch_size=options.batch_size,
        pages=options.pages,
        rounds=options.rounds,
        progress=tell,
        facts=facts,
        share_calls=options.share_calls,
    )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _say(evaluation: Evaluation, protocol: Protocol, out: Path, console: Console) -> None:
    columns = [m for m in (*protocol.headline[:4], "seconds") if any(m in row.figures for row in evaluation.summary())]
    table = Table("variant", "images", "failed", *columns)
    for row in evaluation.summary():
        cells = []
        for metric in columns:
            figure = row.figures.get(metric)
            cells.append("-" if figure is None else number(figure.value, 2 if metric == "seconds" else 3))
        table.add_row(row.variant, str(row.images), str(row.failed), *cells)
    console.print(table)
    failed = f", {len(evaluation.failures())} results failed" if evaluation.failures() else ""
    where = display_name(out / "report.html")
    console.print(
        f"{len(evaluation.records)} results{failed}; see {where} for intervals and differences, "
        f"{display_name(out / 'evaluation.json')} for programs",
        markup=False,
        soft_wrap=True,
    )
