"""Which tests are nearest to a module, and which of its changes are equivalent: what the two TOML files here list.

    [nearest]
    "runs/push" = ["unit/ml_backend/runs/test_push", "integration/runs/test_batch"]

    [[equivalent]]
    module = "runs/push"
    text = "if len(group) > _MOST:"
    was = "len(group) > _MOST"
    now = "(len(group) >= _MOST)"
    why = "what is decided at exactly that length is the same either way"

Modules are named below their package, tests below ``tests``, both without ``.py``. An equivalent change is known by
the text of its line, not by the line's number: it survives what happens above it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from benchmarks.mutation.changes import Mutant

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ml_backend", "int_model")


def _read(package: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / f"{package}.toml").read_text(encoding="utf-8"))


def nearest() -> dict[str, tuple[str, ...]]:
    """The test files of each module, both as paths from the root of the tree; the module's without ``.py``."""
    found = {}
    for package in PACKAGES:
        for module, tests in _read(package)["nearest"].items():
            found[f"{package}/{module}"] = tuple(f"tests/{test}.py" for test in tests)
    return found


def equivalents() -> list[tuple[str, str, str, str]]:
    """Module, text of the line, what was there and what came instead, of each change that changes nothing."""
    found = []
    for package in PACKAGES:
        for entry in _read(package).get("equivalent", []):
            if not entry["why"].strip():
                raise ValueError(f"{entry}: say why it is equivalent")
            found.append((f"{package}/{entry['module']}", entry["text"], entry["was"], entry["now"]))
    return found


def key(mutant: Mutant) -> tuple[str, str, str, str]:
    """As `equivalents` names it."""
    return mutant.module, mutant.text, mutant.was, mutant.now
