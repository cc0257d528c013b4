"""``int-backend``: the command line. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from ml_backend.cli.commands.bootstrap import bootstrap
from ml_backend.cli.commands.evaluate import evaluate
from ml_backend.cli.commands.learn import learn
from ml_backend.cli.commands.models import app as models_app
from ml_backend.cli.commands.review import next_
from ml_backend.cli.commands.segment import segment
from ml_backend.cli.commands.service import annotate, serve, try_, worker
from ml_backend.cli.commands.setup import connect, demo, doctor, profiles, strategies
from ml_backend.cli.medical import medical as medical_app
from ml_backend.cli.options import add_command
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


for function in (
    segment,
    evaluate,
    bootstrap,
    serve,
    worker,
    annotate,
    try_,
    learn,
    next_,
    connect,
    doctor,
    demo,
    profiles,
    strategies,
):
    add_command(app, function)
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(medical_app, name="medical")


if __name__ == "__main__":
    app()
