"""What every command shares: errors as one sentence, and the options of most of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from int_model.strategies.model_options import ModelOptions

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def strategy_name(value: str) -> str:
    """``value`` if there is such a strategy; they are looked up only then, so that ``--help`` imports none."""
    from int_model.strategies.registry import STRATEGIES

    try:
        return STRATEGIES.named(value).name
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_STRATEGY_OPTION = typer.Option(
    "--strategy",
    "-s",
    parser=strategy_name,
    metavar="NAME",
    help="How to get from the prompt to masks: a name from `strategies`.",
)
Strategy = Annotated[str, _STRATEGY_OPTION]
ServiceStrategy = Annotated[str | None, _STRATEGY_OPTION]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")]
Profile = Annotated[str, typer.Option("--profile", "-p", help="Which models: a name from `profiles`, or a .toml file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--model", metavar="ROLE.KEY=VALUE", help="Change the profile, e.g. vlm.id=./llava.")
]
AllAnnotations = Annotated[
    bool,
    typer.Option(
        "--all-annotations",
        help="Take every annotation that was not skipped. (default: the ground truth, else the one changed last)",
    ),
]


def model_options(
    profile: str,
    strategy: str,
    preset: str | None,
    changes: Sequence[str] | None,
    model: Sequence[str] | None,
    device: str,
) -> ModelOptions:
    """The options of the command line as one object. Raises ``ValueError`` for what is not ``KEY=VALUE``."""
    from int_model.core.options import parse_changes
    from int_model.strategies.model_options import ModelOptions

    return ModelOptions(
        profile, parse_changes(model or ()), strategy, preset or "", parse_changes(changes or ()), device
    )


@contextmanager
def plain_errors(*, debug: bool) -> Iterator[None]:
    """Turn exceptions into one sentence on stderr and an exit status; ``debug`` lets them through with a traceback."""
    if debug:
        logging.basicConfig(level=logging.WARNING)
        for name in ("int_model", "ml_backend"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield
        return
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        complain("stopped")
        raise typer.Exit(INTERRUPTED) from None
    except ValueError as error:  # everything that a user can get wrong is one
        complain(str(error))
        raise typer.Exit(MISUSED) from None
    except (OSError, RuntimeError) as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except Exception as error:  # noqa: BLE001 the last resort of a program for people
        complain(f"unexpected {type(error).__name__}: {error}; run it again with --debug to see where it comes from")
        raise typer.Exit(FAILED) from None


def complain(sentence: str) -> None:
    """Write one line ``int-backend: ...`` to stderr."""
    typer.echo(f"int-backend: {' '.join(sentence.split())}", err=True)
