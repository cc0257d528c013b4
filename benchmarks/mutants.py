"""Do the tests notice? ``python -m benchmarks.mutants --seed 5 --count 12 runs/push runs/looks``.

Makes small seeded changes in a module, one at a time, in a copy of the tree, and runs the tests nearest to it: a
comparison at its border or the other way round, a condition negated, ``and`` for ``or``, a number off by one, an
operator for another, a call left out. A mutant that no test notices survived. Each gets a line of JSON with the line
and the change; the table in the end has the share that was killed. Time-outs count as killed and are told apart: such
a change would hang the tests. Mutants that cannot change what the program does are to be named by reading them.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = "tests/unit/ml_backend/runs"
NEAREST: dict[str, tuple[str, ...]] = {
    "ml_backend/runs/push": (f"{RUNS}/test_push.py", "tests/integration/runs/test_batch.py"),
    "ml_backend/runs/looks": (f"{RUNS}/test_push.py", "tests/integration/runs/test_batch.py"),
    "ml_backend/runs/calls": (f"{RUNS}/test_calls.py", "tests/integration/runs/test_outages.py"),
    "ml_backend/runs/triage": (f"{RUNS}/test_run_parts.py", "tests/integration/runs/test_batch.py"),
    "ml_backend/runs/listing": ("tests/integration/runs/test_batch.py", f"{RUNS}/test_push.py"),
    "ml_backend/runs/verify": ("tests/integration/runs/test_verify.py",),
    "ml_backend/runs/ledger": ("tests/integration/ledger/test_ledger.py", "tests/integration/ledger/test_model.py"),
    "ml_backend/runs/rows": ("tests/integration/ledger/test_ledger.py", "tests/integration/ledger/test_model.py"),
    "ml_backend/runs/predict_executor": (
        "tests/integration/runs/test_batch.py",
        "tests/integration/runs/test_verify.py",
    ),
    "ml_backend/serving/results": ("tests/integration/ml_backend/test_state.py",),
    "ml_backend/fetching/addresses": ("tests/integration/ml_backend/test_image_addresses.py",),
    "ml_backend/fetching/images": ("tests/integration/ml_backend/test_image_addresses.py",),
    "ml_backend/api/middleware": (
        "tests/integration/ml_backend/test_auth.py",
        "tests/integration/ml_backend/test_protocol.py",
    ),
    "ml_backend/api/sockets": ("tests/integration/ml_backend/test_sockets.py",),
    "ml_backend/storage/database": (
        "tests/integration/ledger/test_database.py",
        "tests/integration/runs/test_outages.py",
    ),
    "ml_backend/labelstudio/client": (
        "tests/integration/ml_backend/test_tokens.py",
        "tests/integration/runs/test_batch.py",
    ),
    "ml_backend/labelstudio/clicks": ("tests/unit/ml_backend/labelstudio/test_clicks.py",),
}
_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATE: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Mod: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    """A change: the text between two places of the source becomes another."""

    module: str
    line: int
    start: int
    end: int
    was: str
    now: str


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of the source."""
    encoded = source.encode()
    starts = [0]
    for line in encoded.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        was = encoded[start:end].decode()
        found.append(Mutant(module, node.lineno, start, end, was, changed))
    return sorted(found, key=lambda one: (one.start, one.end, one.now))


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in texts or not isinstance(node, ast.expr | ast.stmt):
            continue  # an f-string's parts have no places of their own
        match node:
            case ast.Compare(ops=[operator]):
                for kind in _COMPARE.get(type(operator), ()):
                    yield node, f"({ast.unparse(ast.Compare(node.left, [kind()], node.comparators))})"
            case ast.BoolOp():
                other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
                yield node, f"({ast.unparse(ast.BoolOp(other, node.values))})"
            case ast.BinOp(op=operator) if type(operator) in _OPERATE:
                yield node, f"({ast.unparse(ast.BinOp(node.left, _OPERATE[type(operator)](), node.right))})"
            case ast.UnaryOp(op=ast.Not()):
                yield node, f"({ast.unparse(node.operand)})"
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
                yield test, f"(not ({ast.unparse(test)}))"
            case ast.Constant(value=bool(value)):
                yield node, str(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, f"({value + 1})"
            case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
                yield node, "pass"


def _notices(tree: Path, mutant: Mutant, source: str, tests: Sequence[str], seconds: float) -> str:
    """``killed``, ``survived`` or ``hung``."""
    file, encoded = tree / f"{mutant.module}.py", source.encode()
    file.write_bytes(encoded[: mutant.start] + mutant.now.encode() + encoded[mutant.end :])
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, timeout=seconds, check=False)  # noqa: S603 - our tests
    except subprocess.TimeoutExpired:
        return "hung"
    finally:
        file.write_bytes(encoded)
    return "survived" if done.returncode == 0 else "killed"


def main() -> None:
    """Mutate, test, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of names, e.g. runs/push; all if none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=12, help="mutants per module")
    parser.add_argument("--seconds", type=float, default=90.0, help="after which the tests count as hung")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    given = parser.parse_args()
    chosen = [name for name in NEAREST if not given.modules or any(part in name for part in given.modules)]
    with tempfile.TemporaryDirectory() as folder, given.out.open("a") as out:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
        shutil.copytree(ROOT, tree, ignore=ignored)
        table: dict[str, Counter[str]] = {}
        for name in chosen:
            source = (tree / f"{name}.py").read_text()
            every = mutants(name, source)
            rng = random.Random(f"{given.seed}/{name}")  # noqa: S311 - reproducible, no secret
            table[name] = Counter()
            for mutant in sorted(rng.sample(every, min(given.count, len(every))), key=lambda one: one.start):
                outcome = _notices(tree, mutant, source, NEAREST[name], given.seconds)
                table[name][outcome] += 1
                out.write(json.dumps({"seed": given.seed, "outcome": outcome, **asdict(mutant)}) + "\n")
                out.flush()
    sys.stdout.write("| module | mutants | killed | hung | survived |\n| --- | --- | --- | --- | --- |\n")
    for name, counts in table.items():
        row = [name, counts.total(), counts["killed"], counts["hung"], counts["survived"]]
        sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")


if __name__ == "__main__":
    main()
