"""Write the requirements files from the environment that runs this: what `pyproject.toml` asks for, exactly pinned.

    python scripts/lock.py

The closure of each group's dependencies is followed through the installed packages, so the files hold a set of
versions that was installed and tested together. ``uv`` adds the hashes of all files of these versions, for every
system, so that pip takes nothing else. torch has a file of its own, without hashes: which of its builds is taken is
up to the index that pip is told to use for it, and a local version label (``+cpu``) is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CORE_HEADER = """\
# Exact versions that work together, and the hashes of their files; written by scripts/lock.py. Everything but torch:
#   pip install --require-hashes --no-deps -r requirements.txt
#   pip install -r requirements-torch.txt
"""
TORCH_HEADER = """\
# The version of torch; written by scripts/lock.py. Install it after requirements.txt. It has no hash, since its builds
# differ by machine. Without CUDA (saves several GB), from PyTorch's own index and from no other:
#   pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r requirements-torch.txt
"""
DEV_HEADER = """\
# For tests and linting, on top of requirements.txt; written by scripts/lock.py.
"""


RELEASE_HEADER = """\
# For `make release` and `make lock`, on top of requirements-dev.txt; written by scripts/lock.py.
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


def hashed(pins: dict[str, str]) -> str:
    """The pins as pip reads them, each with the hashes of its files on the Python Package Index."""
    wanted = "\n".join(f"{name}=={version}" for name, version in sorted(pins.items()))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--universal"]
    options = ["--no-header", "--no-annotate", "--no-config", "--python-version", "3.11", "-"]
    made = subprocess.run(  # noqa: S603 - our own command
        [*command, *options], input=wanted, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        sys.exit(f"the hashes cannot be had: {made.stderr.strip()}")
    return made.stdout


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = closure(project["dependencies"])
    torch = core.pop("torch")
    dev = closure(project["optional-dependencies"]["dev"])
    release = closure(project["optional-dependencies"]["release"])
    files = {
        "requirements.txt": (CORE_HEADER, core),
        "requirements-dev.txt": (DEV_HEADER, {name: dev[name] for name in dev.keys() - core.keys() - {"torch"}}),
        "requirements-release.txt": (
            RELEASE_HEADER,
            {name: release[name] for name in release.keys() - core.keys() - dev.keys() - {"torch"}},
        ),
    }
    for file, (header, pins) in files.items():
        (ROOT / file).write_text(header + hashed(pins), encoding="utf-8")
    (ROOT / "requirements-torch.txt").write_text(f"{TORCH_HEADER}torch=={torch}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
