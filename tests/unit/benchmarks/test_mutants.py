"""The command that asks whether the tests notice: its changes, its lists, and its runs over a tree of two files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants import Verdicts, sample
from benchmarks.mutation.changes import Mutant, applied, mutants
from benchmarks.mutation.listed import ROOT, equivalents, key, nearest

HELD = ("api", "fetching", "labelstudio", "runs", "serving", "storage")
SOURCE = '''"""A docstring of 7 words is not changed."""


def few(count: int, most: int = 3) -> bool:
    _log.info("%d of %d", count + 1, most)
    if TYPE_CHECKING:
        return False
    return 0 < count <= most
'''


def _named(changes: list[Mutant]) -> list[tuple[str, str]]:
    return [(one.was, one.now) for one in changes]


def test_every_module_of_the_paths_that_must_lose_nothing_names_its_tests() -> None:
    listed = nearest()
    there = {
        str(path.relative_to(ROOT).with_suffix(""))
        for folder in HELD
        for path in (ROOT / "ml_backend" / folder).rglob("*.py")
        if path.name != "__init__.py" and "migrations" not in path.parts
    }
    assert there - set(listed) == set(), "add them to [nearest] in benchmarks/mutation/ml_backend.toml"
    assert {name for name in listed if not (ROOT / f"{name}.py").exists()} == set()
    assert {test for tests in listed.values() for test in tests if not (ROOT / test).exists()} == set()
    assert all(listed.values())


def test_what_is_listed_as_equivalent_is_still_a_change_of_that_module() -> None:
    listed = equivalents()
    possible = {
        key(one)
        for module in {entry[0] for entry in listed}
        for one in mutants(module, (ROOT / f"{module}.py").read_text(encoding="utf-8"))
    }
    assert [entry for entry in listed if entry not in possible] == []
    assert len(set(listed)) == len(listed)


def test_changes_are_small_and_leave_alone_what_is_only_said() -> None:
    found = mutants("pkg/few", SOURCE)
    assert _named(found) == [
        ("3", "(4)"),
        ("False", "True"),
        ("0", "(1)"),
        ("0 < count <= most", "(0 < count < most)"),
        ("0 < count <= most", "(0 < count > most)"),
        ("0 < count <= most", "(0 <= count <= most)"),
        ("0 < count <= most", "(0 >= count <= most)"),
    ]
    changed = applied(found[0], SOURCE).decode()
    assert changed == SOURCE.replace("most: int = 3", "most: int = (4)")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("send() if not a else None", [("not a", "(a)")]),
        ("return 1 if a and b else 2", [("1", "(2)"), ("a and b", "(a or b)"), ("a and b", "(not (a and b))")]),
        ("return a is None", [("a is None", "(a is not None)")]),
        ("x = a // b", [("a // b", "(a * b)")]),
        ("x: Final[Literal[3]] = a", []),
        ("log.warning('%d', 3)", []),
        ("zip(a, b, strict=True)", [("zip(a, b, strict=True)", "pass")]),
    ],
)
def test_kinds_of_changes(statement: str, expected: list[tuple[str, str]]) -> None:
    source = f"def f():\n    é = 'two bytes'; {statement}\n"
    assert _named(mutants("m", source))[: len(expected)] == expected
    assert bool(_named(mutants("m", source))) == bool(expected)


def test_a_seed_gives_the_same_sample_and_zero_gives_all() -> None:
    source = (ROOT / "ml_backend/runs/push.py").read_text()
    first = sample("ml_backend/runs/push", source, 14, 12)
    assert first == sample("ml_backend/runs/push", source, 14, 12)
    assert len(first) == 12
    assert first != sample("ml_backend/runs/push", source, 15, 12)
    assert sample("ml_backend/runs/push", source, 14, 0) == mutants("ml_backend/runs/push", source)


def test_verdicts_are_kept_and_a_survivor_is_tried_again_when_its_tests_change(tmp_path: Path) -> None:
    module, file = "ml_backend/runs/looks", tmp_path / "mutants.jsonl"
    first, second = mutants(module, (ROOT / f"{module}.py").read_text())[:2]
    kept = Verdicts(file, {module: ("tests/conftest.py",)}, 60.0)
    kept.add(first, 1, {"outcome": "killed"}, 0.1)
    kept.add(second, 1, {"outcome": "survived"}, 0.1)
    again = Verdicts(file, {module: ("tests/conftest.py",)}, 60.0)
    assert (again.of(first), again.of(second)) == ("killed", "survived")
    changed = Verdicts(file, {module: ("tests/support/waiting.py",)}, 60.0)
    assert (changed.of(first), changed.of(second)) == ("killed", None)
    slower = Verdicts(file, {module: ("tests/conftest.py",)}, 90.0)  # with tests that were left out before
    assert (slower.of(first), slower.of(second)) == ("killed", None)


def test_a_mutant_is_killed_or_survives_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Over a real process: the tests as they are, a mutant they notice, one they do not, and a process they start."""
    tree, scratch = tmp_path / "tree", tmp_path / "scratch"
    (tree / "pkg").mkdir(parents=True)
    scratch.mkdir()
    source = "def few(count, most=3):\n    return count <= most\n"
    (tree / "pkg" / "few.py").write_text(source)
    (tree / "test_few.py").write_text(
        "import subprocess\nfrom pkg.few import few\n\n\n"
        "def test_it_starts_a_process_and_forgets_it():\n"
        "    left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"    open({str(scratch / 'left')!r}, 'a').write(f'{{left.pid}}\\n')\n\n\n"
        "def test_few():\n    assert few(3, most=3)\n    assert not few(4, most=3)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{ROOT}", "MUTANTS_SCRATCH": str(scratch)}
    jobs: list[dict[str, Any]] = [{"module": "pkg/few", "tests": ["test_few.py"], "seconds": 60, "each": 60}]
    jobs[0]["known"] = str(tmp_path / "known.json")
    default, border, *_ = mutants("pkg/few", source)
    jobs += [{**jobs[0], "mutant": asdict(one)} for one in (border, default)]
    asked = "".join(json.dumps(job) + "\n" for job in jobs)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mutation.runner"],
        cwd=tree, env=environment, input=asked, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [
        {"outcome": "green", "by": "2 tests"},
        {"outcome": "killed", "by": "test_few.py::test_few"},
        {"outcome": "survived", "by": ""},
    ]
    assert (tree / "pkg" / "few.py").read_text() == source
    left = (scratch / "left").read_text().split()
    assert len(left) == 2  # the killed mutant's test came first, as it goes through the change
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
