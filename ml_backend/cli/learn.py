"""``int-backend learn``: corrected tasks to a judged bundle, with progress on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from int_model.io.outputs import display_name, write_atomic
from ml_backend.cli.bootstrap_options import parse_tasks
from ml_backend.cli.commands.learn import LearnOptions
from ml_backend.cli.options import FAILED
from ml_backend.cli.progress import ProgressBar, say
from ml_backend.labelstudio.exports import ExportedExamples
from ml_backend.learning.corrections import Corrections
from ml_backend.learning.training import Training, enough, packed

if TYPE_CHECKING:
    from int_model.learning.examples import Example
    from int_model.learning.learn import Outcome
    from int_model.strategies.model_options import ModelOptions

ACCEPTED, REJECTED, REPORT = "adapter.safetensors", "rejected.safetensors", "learning.json"


def run(options: LearnOptions) -> int:
    """Learn; returns the exit status.

    Raises:
        ValueError: an option, the export or the models are wrong, or there is too little to learn from.
        RuntimeError: weights are missing.
    """
    console = Console(stderr=True)
    prompts = {label: task.text for label, task in parse_tasks(options.tasks)}
    models = options.models.options()
    models.config()  # a wrong option should not wait for the models
    _prepare(options.out)
    examples = _examples(options, prompts, console)
    outcome, images = _learn(options, models, examples, console)
    name = ACCEPTED if outcome.verdict.promoted else REJECTED
    (options.out / (REJECTED if outcome.verdict.promoted else ACCEPTED)).unlink(missing_ok=True)
    data, report = packed(outcome, examples, models, seed=options.seed, steps=options.steps)
    write_atomic(options.out / name, data)
    write_atomic(options.out / REPORT, json.dumps(report, indent=1).encode())
    _tell(console, outcome, images, options.out / name)
    return 0 if outcome.verdict.promoted else FAILED


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise ValueError(
            f"'{display_name(folder)}' cannot be written ({error.strerror}); choose another --out"
        ) from None


def _examples(options: LearnOptions, prompts: dict[str, str], console: Console) -> list[Example]:
    if options.export is None or options.images is None:
        raise ValueError("give an export and the folder of its images, or a project with --project")
    export = ExportedExamples.read(
        options.export,
        options.images,
        next(iter(prompts.values())),
        every=options.all_annotations,
        tell=lambda line: say(console, line),
    )
    corrections = Corrections(export, prompts, options.group, lambda line: say(console, line))
    found = list(corrections)
    usable = [example for example in found if example.targets]
    if not enough(found):
        labels = ", ".join(f"'{label}'" for label in prompts)
        raise ValueError(
            f"{len(usable)} images have regions with the labels {labels}; learning needs two at least (trained weights "
            "eight): correct more tasks, or name the labels with --task LABEL=PROMPT"
        )
    return found


def _learn(
    options: LearnOptions, models: ModelOptions, examples: list[Example], console: Console
) -> tuple[Outcome, int]:
    from int_model.learning.applied import AdaptedStrategy

    with ProgressBar(console, "loading the models") as bar:
        suite = models.load_suite(bar.loading)

        def stage_done(done: int, total: int, what: str) -> None:
            bar.show(done, total, what)
            bar.line(lambda: f"{done} of {total} steps: {what}", last=done == total)

        training = Training(
            segmenter=suite.segmenter,
            apply=lambda adaptation: AdaptedStrategy(models.make, suite, adaptation),
            seed=options.seed,
            steps=options.steps,
            stage_done=stage_done,
        )
        outcome = training.run(examples)
    return outcome, sum(1 for example in examples if example.targets)


def _tell(console: Console, outcome: Outcome, images: int, path: Path) -> None:
    table = Table("arm", "a click", "a loose box", "mean", title=f"IoU on held-out images ({images} images in all)")
    for arm, row in outcome.table.items():
        marked = f"{arm} *" if arm == outcome.verdict.arm else arm
        table.add_row(marked, *(f"{row[name]:.3f}" for name in ("click", "box", "mean")))
    console.print(table)
    both = outcome.end_to_end
    say(
        console,
        f"with the strategy's own prompts: IoU {both['parent']:.3f} before, {both['candidate']:.3f} after "
        f"(lower bound of the gain {both['lower']:+.3f}, {both['images']:.0f} held-out images)",
    )
    if outcome.verdict.promoted:
        say(console, f"learned ({outcome.verdict.arm}): {path}; serve it with --adapter {path}")
        return
    say(console, f"not good enough to serve ({outcome.verdict.arm}), kept as {path}:")
    for reason in outcome.verdict.reasons:
        say(console, f"  {reason}")
