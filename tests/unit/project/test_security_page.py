"""`docs/security.md` names tests that are there: those of the promises, and those of each attack."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.findall(r"`((?:[\w/]+/)?test_\w+\.py)::(\w+)`", PAGE)
FILES = re.findall(r"`((?:[\w/]+/)?test_\w+\.py)`", PAGE)


@cache
def functions_of(name: str) -> frozenset[str]:
    path = ROOT / ("" if "/" in name else "tests/integration/security") / name
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", sorted(set(FILES) | {name for name, _ in NAMED}))
def test_files_of_tests_are_there_and_hold_the_tests_that_are_named(name: str) -> None:
    assert {test for file, test in NAMED if file == name} <= functions_of(name)


def test_the_table_of_attacks_is_complete() -> None:
    """Each of its lines names a test, and every file of attacks is in it."""
    table = PAGE.split("## Attacks and their tests")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 31
    assert all("::test_" in row for row in rows)
    files = {path.name for path in (ROOT / "tests/integration/security").glob("test_*.py")}
    assert files <= {name for name, _ in NAMED}
