"""Commands declared as dataclasses of their options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from ml_backend.cli.main import app as whole
from ml_backend.cli.options import CommandOptions, ModelArguments, add_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: Annotated[int, typer.Option(min=1, help="How large.")] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommandOptions):
    files: Annotated[tuple[Path, ...], typer.Argument(help="Files.")]
    names: Annotated[tuple[str, ...], typer.Option("--name", help="Names.")] = ()
    numbers: Annotated[tuple[int, ...], typer.Option(parser=lambda text: tuple(map(int, text.split(","))))] = ()
    mode: Annotated[Literal["link", "copy"], typer.Option(help="A choice.")] = "link"
    inner: Inner = field(default_factory=Inner)


def call(*arguments: str, status: int = 0) -> tuple[Any, Any]:
    seen: list[Options] = []

    def work(options: Options) -> int:
        """Do the work."""
        seen.append(options)
        if options.mode == "copy":
            raise ValueError("this cannot\nbe copied")
        return status

    app = typer.Typer()
    app.command("other")(lambda: None)
    work.__annotations__ = {"options": Options, "return": int}
    add_command(app, work)
    return CliRunner().invoke(app, ["work", *arguments]), seen[0] if seen else None


def test_fields_become_options_and_options_fields() -> None:
    result, options = call("a", "b", "--name", "x", "--name", "y", "--numbers", "1,2", "--size", "5", "--debug")
    assert result.exit_code == 0, result.output
    expected = Options(files=(Path("a"), Path("b")), names=("x", "y"), numbers=(1, 2), inner=Inner(size=5), debug=True)
    assert options == expected


def test_what_is_not_given_is_the_default() -> None:
    assert call("a")[1] == Options(files=(Path("a"),))


def test_the_status_and_errors_of_a_command() -> None:
    assert call("a", status=130)[0].exit_code == 130
    result, _ = call("a", "--mode", "copy")
    assert (result.exit_code, result.stderr) == (2, "int-backend: this cannot be copied\n")
    assert isinstance(call("a", "--mode", "copy", "--debug")[0].exception, ValueError)
    for wrong in ([], ["a", "--mode", "no"], ["a", "--size", "0"]):
        assert call(*wrong)[0].exit_code == 2


def test_the_help_says_what_was_declared() -> None:
    text = call("--help")[0].output
    for said in ("Do the work.", "--name", "--size", "How large.", "link|copy"):
        assert said in text


@pytest.mark.parametrize(
    "command", ["segment", "bootstrap", "serve", "worker", "annotate", "runs resume", "runs retry"]
)
def test_every_command_that_runs_models_takes_the_same_options(command: str) -> None:
    text = CliRunner().invoke(whole, [*command.split(), "--help"]).output
    for option in ("--profile", "--model", "--strategy", "--preset", "--set", "--device", "--debug"):
        assert option in text


def test_model_options_of_the_command_line() -> None:
    given = ModelArguments(profile="llava", overrides=("vlm.padded=false",), changes=("pnm.key=name",), preset="fast")
    options = given.options()
    assert (options.profile, options.strategy, options.preset, options.device) == ("llava", "int", "fast", "auto")
    assert (options.overrides, options.changes) == ({"vlm.padded": False}, {"pnm.key": "name"})
    with pytest.raises(ValueError, match="'three' is not KEY=VALUE"):
        ModelArguments(changes=("three",)).options()
