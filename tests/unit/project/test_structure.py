"""The shape of the tree: sizes that can be read in one sitting, imports that run downwards, a listing that is true."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(path for package in ("int_model", "ml_backend") for path in (ROOT / package).rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_MODULES = 400, 60, 20

# From the bottom up; a package may import from its own line and from those above it in this list.
LAYERS = {
    "int_model": [
        ["core"],
        ["masks", "models"],
        ["io", "point_prompting"],
        ["html", "strategies"],
        ["interactive"],
        ["learning", "report", "runner"],
        ["datasets", "evaluation"],
        ["nano"],
    ],
    "ml_backend": [
        ["backoff", "errors", "interpreter"],
        ["fetching", "labelstudio"],
        ["json_pieces", "settings"],
        ["learning", "storage"],
        ["serving"],
        ["runs"],
        ["context"],
        ["connect", "trial"],
        ["doctor"],
        ["api"],
        ["demo", "upstream"],
        ["cli", "model", "_wsgi"],
    ],
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(path): path for path in MODULES}


def _imported(path: Path, *, deferred: bool) -> Iterator[str]:
    """Modules of ours that a file imports, for types too; with ``deferred`` also those imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [statement for node in tree.body for statement in (node.body if isinstance(node, ast.If) else [node])]
    for node in ast.walk(tree) if deferred else top:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _graph(*, deferred: bool) -> dict[str, set[str]]:
    return {
        name: {other for other in _imported(path, deferred=deferred) if other in NAMES and other != name}
        for name, path in NAMES.items()
    }


def test_no_module_imports_itself_through_others() -> None:
    graph = _graph(deferred=False)
    for facade in LAYERS:  # the packages' own names are looked up when they are first used
        graph[facade] = set()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_downwards(package: str) -> None:
    level = {part: number for number, parts in enumerate(LAYERS[package]) for part in parts}
    upwards = []
    for name, others in _graph(deferred=True).items():
        if name == package or not name.startswith(f"{package}."):
            continue
        own = name.split(".")[1]
        assert own in level, f"{own} is in no layer: add it to LAYERS and to docs/architecture.md"
        upwards += [
            f"{name} imports {other}"
            for other in others
            if other.startswith(f"{package}.") and level[other.split(".")[1]] > level[own]
        ]
    assert not upwards


def test_no_folder_is_crowded() -> None:
    folders = defaultdict(list)
    for path in MODULES:
        folders[path.parent].append(path.name)
    crowded = {str(f.relative_to(ROOT)): len(names) for f, names in folders.items() if len(names) > MOST_MODULES}
    assert not crowded


def test_every_file_can_be_read_in_one_sitting() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_every_function_can_be_read_at_a_glance() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long[f"{_name(path)}.{node.name}"] = length
    assert long == {}


def test_every_package_says_what_belongs_there() -> None:
    silent = [
        _name(path)
        for path in MODULES
        if path.name == "__init__.py"
        and "migrations.versions" not in _name(path)
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_the_listing_in_the_architecture_page_is_the_tree() -> None:
    """Every package and module stands in the listing, and nothing else does."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- tree -->\n(.*?)<!-- /tree -->", page, re.DOTALL)
    assert found, "docs/architecture.md has no listing between <!-- tree --> and <!-- /tree -->"
    listed = set()
    stack: list[str] = []
    for line in found[1].splitlines():
        entry = re.match(r"    (\s*)(\w+)/(?:\s|$)(.*)", line)
        if not entry:
            assert not line.strip(), f"not a line of the listing: {line!r}"
            continue
        depth = len(entry[1]) // 2
        stack = [*stack[:depth], entry[2]]
        package = ".".join(stack)
        listed.add(package)
        words = entry[3].partition("(")[0].split()
        listed |= {f"{package}.{word}" for word in words if word != "-"}
    there = {
        name for name in NAMES if not name.rpartition(".")[2].startswith("__") and "migrations.versions" not in name
    }
    assert listed == there
