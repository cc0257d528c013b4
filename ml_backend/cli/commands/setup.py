"""``int-backend doctor``, ``demo``, ``profiles`` and ``strategies``, declared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import CommandOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions(CommandOptions):
    """What ``int-backend doctor`` can be asked for."""

    url: Annotated[str | None, typer.Option(help="Label Studio's address. (default: LABEL_STUDIO_URL)")] = None
    project: Annotated[int | None, typer.Option(help="The project's id; not needed if there is only one.")] = None
    fix: Annotated[bool, typer.Option("--fix", help="Switch on what the project needs to show predictions.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, to stdout.")] = False


def doctor(options: DoctorOptions) -> int:
    """Look for what keeps predictions from arriving, and name the remedy. Exit status 1 if there is a problem."""
    from ml_backend.doctor.command import run

    return run(url=options.url, project_id=options.project, fix=options.fix, as_json=options.as_json, tell=typer.echo)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoArguments(CommandOptions):
    """What ``int-backend demo`` can be asked for."""

    check: Annotated[bool, typer.Option("--check", help="Verify that every sample is annotated, then stop.")] = False
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make Label Studio's virtual environment.")] = False
    profile: Annotated[str, typer.Option(help="Model profile of the backend.")] = "nano"
    folder: Annotated[Path, typer.Option(help="Databases and logs; emptied at every start.")] = Path(".demo")
    label_studio: Annotated[Path, typer.Option(help="Label Studio's virtual environment; made where missing.")] = Path(
        ".venv-label-studio"
    )
    samples: Annotated[Path | None, typer.Option(help="A folder with samples.json. (default: bundled scenes)")] = None
    label_studio_port: Annotated[int, typer.Option(help="0 for a free one.")] = 0
    backend_port: Annotated[int, typer.Option(help="0 for a free one.")] = 0
    timeout: Annotated[float, typer.Option(help="Seconds that all predictions together may take.")] = 900.0


def demo(options: DemoArguments) -> int:
    """Start a real Label Studio and the backend, with sample projects that are already annotated."""
    from ml_backend.demo.run import DemoOptions, main

    given = asdict(options)
    del given["debug"]
    return main(DemoOptions(**given))


def profiles(_options: CommandOptions) -> None:
    """List the model profiles: what they are for, the memory they need, the licences of their weights."""
    from rich.console import Console
    from rich.table import Table

    from int_model.models.profile import profile_names, read_profile

    table = Table("profile", "for", "memory", "licences", show_lines=True)
    for name in profile_names():
        meta = read_profile(name).meta
        memory = "?" if meta.memory_gb is None else f"{meta.memory_gb:g} GB"
        licences = "\n".join(f"{role}: {licence}" for role, licence in meta.licences.items())
        table.add_row(name, meta.description, memory, licences)
    Console().print(table)


def strategies(_options: CommandOptions) -> None:
    """List the strategies: what each does, and its options with their defaults."""
    from rich.console import Console
    from rich.table import Table

    from int_model.core.options import options_of
    from int_model.strategies.registry import STRATEGIES

    table = Table("strategy", "options", show_lines=True)
    for name, entry in STRATEGIES.items():
        options = (f"{option}={field.default}" for option, field in options_of(entry.config))
        table.add_row(name, f"{entry.summary}\n{', '.join(options)}")
    Console().print(table)
