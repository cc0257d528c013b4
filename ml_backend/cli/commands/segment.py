"""``int-backend segment``, declared."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import CommandOptions, ModelArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions(CommandOptions):
    """What ``int-backend segment`` can be asked for; ``out`` None writes no files."""

    images: Annotated[
        tuple[Path, ...], typer.Argument(help="Image files, or folders (searched with everything below).")
    ]
    task: Annotated[str, typer.Option("--task", "-t", help="What to look for, e.g. 'camouflaged animal'.")]
    models: ModelArguments = field(default_factory=ModelArguments)
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where results go. (default: int-results; none with --json)")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, and nothing else, to stdout.")] = False
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the models together.")] = 4
    report: Annotated[bool, typer.Option(help="Whether to write report.html.")] = True


def segment(options: SegmentOptions) -> int:
    """Segment images: masks, overlays, traces and one report that shows why, without Label Studio.

    Exit status: 0 all done, 1 some images failed, 2 wrong usage.
    """
    from ml_backend.cli.segment import run

    if options.out is None and not options.as_json:
        options = replace(options, out=Path("int-results"))
    return run(options, stdout=sys.stdout)
