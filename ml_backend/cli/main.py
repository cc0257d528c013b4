"""``int-backend``: the command line. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.bootstrap_cli import bootstrap
from ml_backend.cli.medical import medical as medical_app
from ml_backend.cli.options import (
    AllAnnotations,
    Debug,
    Device,
    Overrides,
    Profile,
    ServiceStrategy,
    Strategy,
    model_options,
    plain_errors,
)
from ml_backend.cli.runs import app as runs_app

app = typer.Typer(
    name="int-backend",
    help="One task prompt in, masks out: a Label Studio ML backend, and the same method for files and folders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("int-backend"))
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """One task prompt in, masks out."""


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders (searched with everything below).")],
    task: Annotated[str, typer.Option("--task", "-t", help="What to look for, e.g. 'camouflaged animal'.")],
    profile: Profile = "nano",
    strategy: Strategy = "int",
    preset: Annotated[str | None, typer.Option(help="A named configuration of the method, e.g. paper, fast.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one option of the method, e.g. iterations.count=3."),
    ] = None,
    model: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where results go. (default: int-results; none with --json)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, and nothing else, to stdout.")] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the models together.")] = 4,
    report: Annotated[bool, typer.Option(help="Whether to write report.html.")] = True,
    debug: Debug = False,
) -> None:
    """Segment images: masks, overlays, traces and one report that shows why, without Label Studio.

    Exit status: 0 all done, 1 some images failed, 2 wrong usage.
    """
    with plain_errors(debug=debug):
        from ml_backend.cli.segment import SegmentOptions, run

        options = SegmentOptions(
            images=tuple(images),
            task=task,
            models=model_options(profile, strategy, preset, changes, model, device),
            out=out if out is not None or as_json else Path("int-results"),
            as_json=as_json,
            batch_size=batch_size,
            report=report,
        )
        status = run(options, stdout=sys.stdout)
    if status:
        raise typer.Exit(status)


@app.command()
def evaluate(
    images: Annotated[Path | None, typer.Argument(help="Folder of the images.")] = None,
    masks: Annotated[Path | None, typer.Argument(help="Folder of their masks, named like the images.")] = None,
    coco: Annotated[Path | None, typer.Option(help="The truth as a COCO instance file, in place of MASKS.")] = None,
    label_studio: Annotated[
        Path | None, typer.Option(help="The truth as a JSON export of Label Studio, in place of MASKS.")
    ] = None,
    nano: Annotated[
        int | None, typer.Option(min=1, help="So many held-out scenes of the bundled miniature world, of each seed.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="What to look for, e.g. 'camouflaged animal'.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only objects with this COCO category or label are sought.")
    ] = None,
    all_annotations: AllAnnotations = False,
    strategies: Annotated[
        str | None,
        typer.Option(help="Separated by commas. (default: int,vlm_box,grounded_sam; with variants: int)"),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:KEY=VALUE", help="A changed configuration; the same NAME again adds a change."),
    ] = None,
    variants_file: Annotated[
        Path | None, typer.Option("--variants", help="Variants as a TOML file, one table each.")
    ] = None,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="A table of the paper: 3a iterations, 3b scales, 3c modules, or all; may be given again."),
    ] = None,
    share_calls: Annotated[
        bool, typer.Option("--share-calls", help="Ask the models each question once for all variants: much faster.")
    ] = False,
    seeds: Annotated[str | None, typer.Option(help="Separated by commas: of the scenes, or of the models.")] = None,
    protocol: Annotated[str, typer.Option(help="How masks are scored: native, mask or promac.")] = "native",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    part: Annotated[str | None, typer.Option(help="Only a part, e.g. 1/2, so that two processes can share.")] = None,
    profile: Profile = "nano",
    preset: Annotated[str | None, typer.Option(help="A named configuration of the method, e.g. paper, fast.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one option for all variants.")
    ] = None,
    model: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results and the report go.")] = Path("int-evaluation"),
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the models together.")] = 4,
    pages: Annotated[bool, typer.Option(help="Whether to keep a page per result that shows how it came about.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Resamplings of the bootstrap.")] = 1000,
    debug: Debug = False,
) -> None:
    """Compare strategies on images with known masks: metrics, seconds, calls, memory, one report and one JSON.

    Finished results are kept, so a stopped run goes on. Exit status: 0 all done, 1 some failed, 2 wrong usage.
    """
    with plain_errors(debug=debug):
        from ml_backend.cli.evaluate import EvaluateOptions, listed, run, whole_numbers

        options = EvaluateOptions(
            out=out,
            images=images,
            masks=masks,
            coco=coco,
            label_studio=label_studio,
            nano=nano,
            labels=tuple(label or ()),
            all_annotations=all_annotations,
            task=task,
            models=model_options(profile, "int", preset, changes, model, device),
            strategies=None if strategies is None else listed(strategies),
            variants=tuple(variant or ()),
            variants_file=variants_file,
            ablations=tuple(ablation or ()),
            share_calls=share_calls,
            seeds=() if seeds is None else whole_numbers(seeds),
            protocol=protocol,
            limit=limit,
            part=part,
            batch_size=batch_size,
            pages=pages,
            rounds=rounds,
        )
        status = run(options)
    if status:
        raise typer.Exit(status)


app.command()(bootstrap)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: INT_HOST, else 0.0.0.0)")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. (default: INT_PORT, else 9090)")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Which models. (default: INT_PROFILE, else nano)")
    ] = None,
    strategy: ServiceStrategy = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ... (default: INT_DEVICE, else auto)")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR. (default: INT_LOG_LEVEL, else INFO)")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run the ML backend for Label Studio, in one process. Options go before environment variables."""
    with plain_errors(debug=debug):
        from ml_backend.cli.serve import load_settings, run

        settings = load_settings(
            {
                "host": host,
                "port": port,
                "profile": profile,
                "strategy": strategy,
                "device": device,
                "log_level": "DEBUG" if debug else log_level and log_level.upper(),
            }
        )
        run(settings, lambda line: typer.echo(line, err=True))


@app.command()
def worker(
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Which models. (default: INT_PROFILE, else nano)")
    ] = None,
    strategy: ServiceStrategy = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda:1, ... (default: INT_DEVICE, else auto)")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR. (default: INT_LOG_LEVEL, else INFO)")
    ] = None,
    debug: Debug = False,
) -> None:
    """Work on batch runs that others began, with REDIS_URL set. One per accelerator, on any number of machines."""
    with plain_errors(debug=debug):
        from ml_backend.cli.serve import load_settings
        from ml_backend.cli.worker import run

        settings = load_settings(
            {
                "profile": profile,
                "strategy": strategy,
                "device": device,
                "log_level": "DEBUG" if debug else log_level and log_level.upper(),
            }
        )
        run(settings, lambda line: typer.echo(line, err=True))


@app.command()
def demo(
    check: Annotated[bool, typer.Option("--check", help="Verify that every sample is annotated, then stop.")] = False,
    profile: Annotated[str, typer.Option(help="Model profile of the backend.")] = "nano",
    folder: Annotated[Path, typer.Option(help="Databases and logs; emptied at every start.")] = Path(".demo"),
) -> None:
    """Start a real Label Studio and the backend, with sample projects that are already annotated."""
    with plain_errors(debug=False):
        from ml_backend.demo import DemoOptions, main

        raise typer.Exit(main(options=DemoOptions(check=check, profile=profile, folder=folder)))


@app.command()
def profiles() -> None:
    """List the model profiles: what they are for, the memory they need, the licences of their weights."""
    with plain_errors(debug=False):
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


@app.command()
def strategies() -> None:
    """List the strategies: what each does, and its options with their defaults."""
    with plain_errors(debug=False):
        from rich.console import Console
        from rich.table import Table

        from int_model.core.options import options_of
        from int_model.strategies.registry import STRATEGIES

        table = Table("strategy", "options", show_lines=True)
        for name, entry in STRATEGIES.items():
            options = (f"{option}={field.default}" for option, field in options_of(entry.config))
            table.add_row(name, f"{entry.summary}\n{', '.join(options)}")
        Console().print(table)


@app.command()
def doctor(
    url: Annotated[str | None, typer.Option(help="Label Studio's address. (default: LABEL_STUDIO_URL)")] = None,
    project: Annotated[int | None, typer.Option(help="The project's id; not needed if there is only one.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Switch on what the project needs to show predictions.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, to stdout.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Look for what keeps predictions from arriving, and name the remedy. Exit status 1 if there is a problem."""
    with plain_errors(debug=debug):
        from ml_backend.doctor.command import run

        status = run(url=url, project_id=project, fix=fix, as_json=as_json, tell=typer.echo)
    if status:
        raise typer.Exit(status)


@app.command()
def annotate(
    project: Annotated[int, typer.Option("--project", help="The project's id in Label Studio.")],
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view (tab).")] = None,
    prompt: Annotated[str, typer.Option(help="What to look for, instead of the connection's prompt.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Most tasks.")] = None,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Leave out tasks that have a prediction of this version.")
    ] = False,
    include_annotated: Annotated[
        bool, typer.Option("--include-annotated", help="Also tasks that people annotated, skipped or began.")
    ] = False,
    set_model_version: Annotated[
        bool, typer.Option("--set-model-version", help="Let the project show these predictions at the end.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the tasks.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="With REDIS_URL: do not watch, return at once.")] = False,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Which models. (default: INT_PROFILE, else nano)")
    ] = None,
    strategy: ServiceStrategy = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ... (default: INT_DEVICE, else auto)")] = None,
    debug: Debug = False,
) -> None:
    """Pre-annotate a whole project and push the predictions. Ctrl-C leaves a run that can be resumed.

    Exit status: 0 all done, 1 some tasks failed or the run stopped, 2 wrong usage, 130 interrupted.
    """
    with plain_errors(debug=debug):
        from rich.console import Console

        from ml_backend.cli.annotate import run_annotate
        from ml_backend.cli.serve import load_settings
        from ml_backend.runs.types import RunRequest

        asked = {
            "project": project,
            "view": view,
            "prompt": prompt,
            "limit": limit,
            "only_missing": only_missing,
            "include_annotated": include_annotated,
            "set_model_version": set_model_version,
        }
        given = {"profile": profile, "strategy": strategy, "device": device}
        status = run_annotate(
            load_settings(given),
            RunRequest.parse(asked),
            dry_run=dry_run,
            detach=detach,
            tell=Console(),
            bar=Console(stderr=True),
            debug=debug,
        )
    if status:
        raise typer.Exit(status)


app.add_typer(runs_app, name="runs")

app.add_typer(medical_app, name="medical")


if __name__ == "__main__":
    app()
