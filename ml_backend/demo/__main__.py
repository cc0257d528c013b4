"""``python -m ml_backend.demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ml_backend.demo.processes import DemoError
from ml_backend.demo.run import DemoOptions, main
from ml_backend.demo.server import ensure_environment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml_backend.demo", description="Label Studio + backend + samples.")
    add = parser.add_argument
    add("--check", action="store_true", help="verify that every sample is annotated, then stop; exit status 0 or 1")
    add("--prepare", action="store_true", help="only make Label Studio's virtual environment")
    add("--folder", type=Path, default=Path(".demo"), help="databases and logs; emptied at every start")
    add("--label-studio", type=Path, default=Path(".venv-label-studio"), help="Label Studio's virtual environment")
    add("--samples", type=Path, help="a folder with samples.json; default: the bundled scenes")
    add("--profile", default="nano", help="model profile of the backend")
    add("--label-studio-port", type=int, default=0, help="default: a free port")
    add("--backend-port", type=int, default=0, help="default: a free port")
    add("--timeout", type=float, default=900.0, help="seconds that all predictions together may take")
    return parser


def _command(arguments: list[str]) -> int:
    given = vars(_parser().parse_args(arguments))
    if given.pop("prepare"):
        console = Console()
        log = given["folder"] / "logs" / "install.log"
        try:
            ensure_environment(given["label_studio"].resolve(), log=log, tell=console.print)
        except DemoError as error:
            console.print(str(error), markup=False)
            return 1
        return 0
    return main(options=DemoOptions(**given))


if __name__ == "__main__":
    sys.exit(_command(sys.argv[1:]))
