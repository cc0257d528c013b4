"""``int-backend learn``, declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import AllAnnotations, CommandOptions, ModelArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions(CommandOptions):
    """What ``int-backend learn`` can be asked for."""

    export: Annotated[
        Path | None, typer.Argument(help="Label Studio's JSON export of the corrected tasks.", show_default=False)
    ] = None
    images: Annotated[Path | None, typer.Argument(help="Folder of their images.", show_default=False)] = None
    project: Annotated[
        int | None, typer.Option(min=1, help="Instead of an export: a project, read from Label Studio.")
    ] = None
    detach: Annotated[bool, typer.Option("--detach", help="With --project and REDIS_URL: do not watch.")] = False
    tasks: Annotated[
        tuple[str, ...],
        typer.Option("--task", "-t", metavar="LABEL=PROMPT", help="The task prompt of a label; again for more labels."),
    ] = ()
    group: Annotated[
        str, typer.Option(help="Field of the tasks' data by which images belong together: patient, series.")
    ] = ""
    all_annotations: AllAnnotations = False
    models: ModelArguments = field(default_factory=ModelArguments)
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of an arm. (default: 120, from 16 images on 240)")
    ] = None
    seed: Annotated[int, typer.Option(help="Of the folds, the simulated prompts and the training.")] = 0
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle and its report.")] = Path("int-learned")


def learn(options: LearnOptions) -> int:
    """Learn from corrected tasks, and judge what was learned on held-out images.

    From an export and a folder of images it writes a bundle for `serve`. With --project it makes the project's next
    version, which serves at once if the gate lets it: see `int-backend models`.

    Exit status: 0 the gate lets it serve, 1 it does not (the bundle is kept with its report), 2 wrong usage, 130
    interrupted.
    """
    if options.project is not None:
        from ml_backend.cli.commands.learn_project import run_project

        return run_project(options)
    from ml_backend.cli.learn import run

    return run(options)
