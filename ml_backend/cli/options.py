"""What every command shares: errors as one sentence, and the options of most of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class StrategyName(StrEnum):
    """The values of ``--strategy``; they are those of ``int_model.strategies.registry.STRATEGIES``."""

    int_ = "int"
    vlm_box = "vlm_box"
    grounded_sam = "grounded_sam"
    promac = "promac"
    sam3 = "sam3"


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
