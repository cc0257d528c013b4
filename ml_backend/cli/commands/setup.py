"""``int-backend connect``, ``doctor``, ``demo``, ``profiles`` and ``strategies``, declared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_backend.cli.options import CommandOptions

if TYPE_CHECKING:
    from ml_backend.connect.labeling import ControlKind


class Control(StrEnum):
    """The values of ``--control``; they are those of ``ControlKind``."""

    polygon = "polygon"
    brush = "brush"
    bitmask = "bitmask"
    rectangle = "rectangle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions(CommandOptions):
    """What ``int-backend connect`` can be asked for."""

    project: Annotated[int, typer.Option("--project", min=1, help="The project's id in Label Studio.")]
    prompt: Annotated[str, typer.Option(help="The task prompt, e.g. polyp; it goes into the connection.")] = ""
    control: Annotated[
        Control | None, typer.Option(help="The mask control to add where there is none. (default: polygon)")
    ] = None
    label: Annotated[str, typer.Option(help="The label of an added control. (default: the prompt's last word)")] = ""
    smart: Annotated[bool, typer.Option("--smart", help="Add tools for clicks and boxes, and switch them on.")] = False
    backend: Annotated[
        str, typer.Option(help="The backend as Label Studio reaches it. (default: localhost and INT_PORT)")
    ] = ""
    strategy: Annotated[str, typer.Option(help="How masks are made; it goes into the connection.")] = ""
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Regions with a score below it are not shown.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and ask nothing.")] = False


def connect(options: ConnectOptions) -> int:
    """Connect a project of Label Studio in one step: labeling config, connection, webhook, visible predictions.

    It shows every change first and removes nothing. Needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY.
    """
    from ml_backend.connect.command import run
    from ml_backend.connect.plan import Wanted
    from ml_backend.settings import load_settings

    control: ControlKind | None = options.control.value if options.control else None
    backend = options.backend.strip().rstrip("/")
    params = (options.strategy.strip(), options.threshold)
    wanted = Wanted(options.prompt.strip(), control, options.label, options.smart, backend, *params)
    asked = options.yes or options.as_json
    return run(
        load_settings({}),
        options.project,
        wanted,
        dry_run=options.dry_run,
        as_json=options.as_json,
        confirm=lambda question: asked or typer.confirm(question),
        tell=typer.echo,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions(CommandOptions):
    """What ``int-backend doctor`` can be asked for."""

    url: Annotated[str | None, typer.Option(help="Label Studio's address. (default: LABEL_STUDIO_URL)")] = None
    project: Annotated[int | None, typer.Option(help="The project's id; not needed if there is only one.")] = None
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend the webhook and what hides predictions, as connect does.")
    ] = False
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilesOptions(CommandOptions):
    """What ``int-backend profiles`` can be asked for."""

    fit: Annotated[
        bool, typer.Option("--fit", help="Look at this machine's memory, and say which profiles fit into it.")
    ] = False
    memory: Annotated[float | None, typer.Option(help="With --fit: so many GB, instead of what is here.", min=0)] = None


def profiles(options: ProfilesOptions) -> int:
    """List the model profiles: what they are for, the memory they need, the licences of their weights."""
    from rich.console import Console
    from rich.table import Table

    from int_model.models.profile import profile_names, read_profile

    if options.fit:
        return _fit(options.memory)
    table = Table("profile", "for", "memory", "licences", show_lines=True)
    for name in profile_names():
        meta = read_profile(name).meta
        memory = "?" if meta.memory_gb is None else f"{meta.memory_gb:g} GB"
        licences = "\n".join(f"{role}: {licence}" for role, licence in meta.licences.items())
        table.add_row(name, meta.description, memory, licences)
    Console().print(table)
    return 0


def _fit(memory: float | None) -> int:
    """Exit status 1 where no profile fits."""
    from rich.console import Console
    from rich.table import Table

    from int_model.models.memory_plan import fitting, plan
    from int_model.models.profile import profile_names, read_profile
    from ml_backend.doctor.local import probe_in_subprocess

    where = "given"
    if memory is None:
        seen = probe_in_subprocess()
        card = max(seen["cuda"], key=lambda one: one["free_gb"], default=None)
        memory, where = (card["free_gb"], f"free on {card['name']}") if card else (seen["ram_gb"], "of this machine")
    fits = [found.profile for found in fitting(memory)]
    table = Table("profile", "weights", "caches of full batches", "in all", f"fits into {memory:.1f} GB ({where})")
    for name in profile_names():
        own = plan(read_profile(name))
        unknown = [role.role for role in own.roles if role.weights_gb is None]
        weights = f"{own.weights_gb:.1f} GB{' and ' + ', '.join(unknown) if unknown else ''}"
        table.add_row(
            name, weights, f"{own.caches_gb:.1f} GB", f"{own.needed_gb:.1f} GB", "yes" if name in fits else "no"
        )
    Console().print(table)
    return 0 if fits else 1


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
