"""``int-backend serve``, ``worker``, ``annotate`` and ``try``, declared; what is not given the environment says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import CommandOptions, ModelArguments, strategy_name

LogLevel = Annotated[
    str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR. (default: INT_LOG_LEVEL, else INFO)")
]


Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="What `int-backend learn` wrote. (default: INT_ADAPTER, else none)")
]


def _strategy_names(values: list[str] | None) -> list[str] | None:
    return [strategy_name(value) for value in values or []]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(CommandOptions):
    """What ``int-backend serve`` and ``worker`` can both be asked for."""

    models: ModelArguments = field(default_factory=ModelArguments)
    adapter: Adapter = None
    log_level: LogLevel = None

    @property
    def level(self) -> str | None:
        """The level of the log; None if none was given."""
        return "DEBUG" if self.debug else self.log_level and self.log_level.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(WorkerOptions):
    """What ``int-backend serve`` can be asked for."""

    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: INT_HOST, else 127.0.0.1)")] = None
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. (default: INT_PORT, else 9090)")
    ] = None


def serve(options: ServeOptions) -> None:
    """Run the ML backend for Label Studio, in one process.

    Options go before environment variables: INT_PROFILE, INT_PROFILE_OVERRIDES (--model), INT_STRATEGY, INT_PRESET,
    INT_CONFIG (--set), INT_DEVICE.
    """
    from ml_backend.cli.serve import run

    given = {"host": options.host, "port": options.port, "adapter": options.adapter, "log_level": options.level}
    run(options.models.settings(given), _tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions(WorkerOptions):
    """What ``int-backend worker`` can be asked for."""

    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="all|NAMES", help="A process on each: all CUDA cards, or names: cuda:0,cuda:1."
        ),
    ] = None


def worker(options: FleetOptions) -> int:
    """Work on batch runs that others began, with REDIS_URL set. One per accelerator, on any number of machines.

    Options go before environment variables, as for `serve`. With --devices: exit status 1 if the worker of a device
    died again and again.
    """
    from ml_backend.cli.workers.worker import check, run

    settings = options.models.settings({"adapter": options.adapter, "log_level": options.level})
    if options.devices is None:
        run(settings, _tell)
        return 0
    from int_model.models.device import list_devices
    from ml_backend.cli.workers import fleet

    if options.models.device is not None:
        raise ValueError("--device and --devices exclude each other; leave out one")
    check(settings)
    return fleet.run(settings, list_devices(options.devices), _tell, run)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestArguments:
    """The fields of a ``RunRequest``."""

    project: Annotated[int, typer.Option("--project", help="The project's id in Label Studio.")]
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view (tab).")] = None
    prompt: Annotated[str, typer.Option(help="What to look for, instead of the connection's prompt.")] = ""
    limit: Annotated[int | None, typer.Option(min=1, help="Most tasks.")] = None
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Leave out tasks that have a prediction of this version.")
    ] = False
    include_annotated: Annotated[
        bool, typer.Option("--include-annotated", help="Also tasks that people annotated, skipped or began.")
    ] = False
    set_model_version: Annotated[
        bool, typer.Option("--set-model-version", help="Let the project show these predictions at the end.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateOptions(CommandOptions):
    """What ``int-backend annotate`` can be asked for."""

    request: RequestArguments
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the tasks.")] = False
    detach: Annotated[bool, typer.Option("--detach", help="With REDIS_URL: do not watch, return at once.")] = False
    models: ModelArguments = field(default_factory=ModelArguments)
    adapter: Adapter = None


def annotate(options: AnnotateOptions) -> int:
    """Pre-annotate a whole project and push the predictions. Ctrl-C leaves a run that can be resumed.

    Options go before environment variables. Exit status: 0 all done, 1 some tasks failed or the run stopped, 2 wrong
    usage, 130 interrupted.
    """
    from rich.console import Console

    from ml_backend.cli.annotate import run_annotate
    from ml_backend.runs.types import RunRequest

    return run_annotate(
        options.models.settings({"adapter": options.adapter}),
        RunRequest.parse(asdict(options.request)),
        dry_run=options.dry_run,
        detach=options.detach,
        tell=Console(),
        bar=Console(stderr=True),
        debug=options.debug,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TryOptions(CommandOptions):
    """What ``int-backend try`` can be asked for."""

    project: Annotated[int, typer.Option("--project", min=1, help="The project's id in Label Studio.")]
    prompt: Annotated[
        tuple[str, ...], typer.Option("--prompt", help="A task prompt; may be repeated. (default: the project's own)")
    ] = ()
    variants: Annotated[
        tuple[str, ...],
        typer.Option("--against", callback=_strategy_names, help="Another strategy for the same prompts; repeatable."),
    ] = ()
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="How many images.")] = 10
    view: Annotated[int | None, typer.Option(help="Only tasks of this Data Manager view (tab).")] = None
    annotated: Annotated[bool, typer.Option("--annotated", help="Only tasks that people annotated.")] = False
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 0
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("trial.html")
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, to stdout.")] = False
    models: ModelArguments = field(default_factory=ModelArguments)
    adapter: Adapter = None


def try_(options: TryOptions) -> int:
    """Try prompts and strategies on a few images of a project, side by side. Nothing is pushed.

    Where tasks are annotated, the sides are compared with what people drew.
    """
    from ml_backend.trial.command import run
    from ml_backend.trial.types import Side, TrialRequest

    sides = tuple(Side(p, s) for s in ("", *options.variants) for p in options.prompt or ("",))
    return run(
        options.models.settings({"adapter": options.adapter}),
        TrialRequest(options.project, sides, options.images, options.view, options.annotated, options.seed),
        options.out,
        as_json=options.as_json,
        tell=typer.echo,
        progress=lambda done, total: typer.echo(f"{done} of {total} images", err=True),
    )


def _tell(line: str) -> None:
    typer.echo(line, err=True)
