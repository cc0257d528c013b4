"""``int-backend next``, declared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from ml_backend.cli.options import CommandOptions


class Order(StrEnum):
    """The values of ``--order``; they are those of ``ReviewOrder``."""

    random = "random"
    doubt = "doubt"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextOptions(CommandOptions):
    """What ``int-backend next`` can be asked for."""

    project: Annotated[int, typer.Option(min=1, help="Id of the project in Label Studio.")]
    order: Annotated[
        Order, typer.Option(help="random, or doubt: lowest scores first, labels in turn, 30 % at random.")
    ] = Order.random
    count: Annotated[int, typer.Option(min=1, help="How many tasks are named.")] = 10
    annotator: Annotated[int, typer.Option(min=1, help="Which of the annotators looks, from 1.")] = 1
    annotators: Annotated[int, typer.Option("--of", min=1, help="How many annotators share the tasks.")] = 1
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0
    write: Annotated[
        bool,
        typer.Option("--write", help="Write the order of all open tasks as scores of their predictions, lowest first."),
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")] = False


def next_(options: NextOptions) -> int:
    """Name the tasks that a person should look at next. Two annotators are never sent to the same task."""
    from ml_backend.cli.review import run

    return run(options)
