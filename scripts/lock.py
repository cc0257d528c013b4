"""Write the requirements files from the environment that runs this: what `pyproject.toml` asks for, exactly pinned.

    python scripts/lock.py

The closure of each group's dependencies is followed through the installed packages, so the files hold a set of
versions that was installed and tested together. Local version labels (``+cpu``) are left out: which build of torch
is taken is up to the index that pip is told to use.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CORE_HEADER = """\
# Exact versions that work together; written by scripts/lock.py.
# torch stands here with the rest so that one pip command decides everything. For a CPU-only machine add
#   --extra-index-url https://download.pytorch.org/whl/cpu
# which saves several GB of CUDA libraries.
"""
DEV_HEADER = """\
# For tests and linting, on top of requirements.txt; written by scripts/lock.py.
-r requirements.txt
"""


RELEASE_HEADER = """\
# For `make release`, on top of requirements-dev.txt; written by scripts/lock.py.
-r requirements-dev.txt
"""


def canonical(name: str) -> str:
    """The normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and version of everything that the requirements need, extras followed."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonical(requirement.name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed: install the project with its extras first")
        found[name] = package.version.partition("+")[0]
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            todo += [(Requirement(text), wanted) for text in package.requires or ()]
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = closure(project["dependencies"])
    dev = closure(project["optional-dependencies"]["dev"])
    release = closure(project["optional-dependencies"]["release"])
    files = {
        "requirements.txt": (CORE_HEADER, core),
        "requirements-dev.txt": (DEV_HEADER, {name: dev[name] for name in dev.keys() - core.keys()}),
        "requirements-release.txt": (
            RELEASE_HEADER,
            {name: release[name] for name in release.keys() - core.keys() - dev.keys()},
        ),
    }
    for file, (header, pins) in files.items():
        lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
        (ROOT / file).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
