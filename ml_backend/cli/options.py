"""What every command shares: how its options are declared, those about models, and errors as one sentence."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from int_model.strategies.model_options import ModelOptions
    from ml_backend.settings import Settings

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")]
AllAnnotations = Annotated[
    bool,
    typer.Option(
        "--all-annotations",
        help="Take every annotation that was not skipped. (default: the ground truth, else the one changed last)",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """The options of a command, each field declared for typer: ``Annotated[type, typer.Option(...)]``.

    A tuple is an option that may be repeated. A field that is a dataclass itself stands for the options in it.
    """

    debug: Debug = False


def strategy_name(value: str) -> str:
    """``value`` if there is such a strategy; they are looked up only then, so that ``--help`` imports none."""
    from int_model.strategies.registry import STRATEGIES

    try:
        return STRATEGIES.named(value).name
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """The options about models and method, as they were given; None and () where they were not.

    Defaults are those of ``ModelOptions``. The commands of the service take what was not given from the environment.
    """

    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="Which models: a name from `profiles`, or a .toml file. (default: nano)"),
    ] = None
    overrides: Annotated[
        tuple[str, ...], typer.Option("--model", metavar="ROLE.KEY=VALUE", help="Change the profile: vlm.id=./llava.")
    ] = ()
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            "-s",
            parser=strategy_name,
            metavar="NAME",
            help="How to get from the prompt to masks: a name from `strategies`. (default: int)",
        ),
    ] = None
    preset: Annotated[
        str | None, typer.Option("--preset", help="A named configuration of the strategy: paper, fast.")
    ] = None
    changes: Annotated[
        tuple[str, ...],
        typer.Option("--set", metavar="KEY=VALUE", help="Change an option of the strategy: iterations.count=3."),
    ] = ()
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps. (default: auto)")] = (
        None
    )

    def options(self) -> ModelOptions:
        """What was given, over the defaults. Raises ``ValueError`` for what is not ``KEY=VALUE``."""
        from int_model.core.options import parse_changes
        from int_model.strategies.model_options import ModelOptions

        overrides, changes = parse_changes(self.overrides), parse_changes(self.changes)
        return ModelOptions(**self._names(), overrides=overrides, changes=changes)

    def settings(self, given: Mapping[str, Any] | None = None) -> Settings:
        """The settings of the environment under what was given here and in ``given``; None means not given.

        Raises ``ValueError`` for what is not ``KEY=VALUE``, for a wrong setting, and for a device that is not there.
        """
        from int_model.core.options import parse_changes
        from ml_backend.settings import load_settings

        settings = load_settings({**self._names(), **(given or {})})
        if settings.device not in ("auto", "cpu"):
            from int_model.models.device import (
                choose_device,
            )  # imports torch, so only where there is something to check

            choose_device(settings.device)
        return settings.with_models(parse_changes(self.overrides), parse_changes(self.changes))

    def _names(self) -> dict[str, str]:
        names = {name: getattr(self, name) for name in ("profile", "strategy", "preset", "device")}
        return {name: value for name, value in names.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedModelArguments(ModelArguments):
    """The same for a command that runs several strategies and names them itself."""

    strategy: None = None


OptionsT = TypeVar("OptionsT", bound=CommandOptions)


def add_command(app: typer.Typer, function: Callable[[OptionsT], int | None]) -> None:
    """Make a function of some ``CommandOptions`` a command; its name and docstring are the command's name and help.

    The function gives the exit status; None is 0. What it raises becomes one sentence (see ``plain_errors``).
    """
    (kind,) = (hint for name, hint in get_type_hints(function).items() if name != "return")

    def run(**given: Any) -> None:
        with plain_errors(debug=given["debug"]):
            status = function(_built(kind, given))
        if status:
            raise typer.Exit(status)

    parameters = list(_parameters(kind))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__.rstrip("_"), help=inspect.getdoc(function))(run)


def _parameters(options: type[Any]) -> Iterator[inspect.Parameter]:
    """What typer reads: one parameter per annotated field, also of the dataclasses among the fields."""
    annotated: Any = Annotated
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _parameters(kind)
        elif get_origin(kind) is Annotated:
            type_, declaration = get_args(kind)
            if getattr(declaration, "parser", None) is not None:
                type_ = str  # of what is parsed
            elif get_origin(type_) is tuple:
                type_ = list[get_args(type_)[0]]  # type: ignore[misc]
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            default = None if default == () else default
            annotation = annotated[type_, declaration]
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _built(options: type[Any], given: Mapping[str, Any]) -> Any:
    """The options object of what typer gave."""
    values: dict[str, Any] = {}
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            values[field.name] = _built(kind, given)
        elif field.name in given:
            value = given[field.name]
            values[field.name] = tuple(value or ()) if get_origin(get_args(kind)[0]) is tuple else value
    return options(**values)


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
    except OSError as error:
        complain(_of_the_system(error))
        raise typer.Exit(FAILED) from None
    except RuntimeError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except Exception as error:  # noqa: BLE001 the last resort of a program for people
        complain(f"unexpected {type(error).__name__}: {error}; run it again with --debug to see where it comes from")
        raise typer.Exit(FAILED) from None


def _of_the_system(error: OSError) -> str:
    """What the operating system refused, with the file's name and, for a full disk, the remedy."""
    reason = error.strerror or str(error) or type(error).__name__
    name = "" if error.filename is None else f"'{os.fsencode(error.filename).decode('utf-8', 'replace')}': "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{name}the disk is full ({reason}); make room, and run the same command again"
    return f"{name}{reason}"


def complain(sentence: str) -> None:
    """Write one line ``int-backend: ...`` to stderr."""
    typer.echo(f"int-backend: {' '.join(sentence.split())}", err=True)
