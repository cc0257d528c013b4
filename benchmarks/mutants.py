"""Do the tests notice? ``python -m benchmarks.mutants --seed 5 --count 12 runs/push runs/looks``.

Makes small seeded changes in a module, one at a time, in a copy of the tree, and runs the tests nearest to it: a
comparison at its border or the other way round, a condition negated, ``and`` for ``or``, a number off by one, an
operator for another, a call left out. What is only logged is left alone. A mutant that no test notices survived.

Each verdict is a line of JSON in ``--out``; a verdict that is there already holds while the module's text does (and,
for a survivor, that of its tests), so the command goes on where it was stopped, and ``--minutes`` stops it.
``--each 2`` leaves out tests of more than two seconds; without it, only what survived the quick ones is run against the
others. Tests that hang count as killed and are told apart: such a change would hang them. Which tests are nearest, and
which mutants were read and cannot change what the program does, stands in ``benchmarks/mutation``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TextIO

from benchmarks.mutation.changes import Mutant, mutants
from benchmarks.mutation.listed import ROOT, equivalents, key, nearest

_OUTCOMES = ("killed", "hung", "survived")


def sample(module: str, source: str, seed: int, count: int) -> list[Mutant]:
    """``count`` mutants of a module, all for 0, in the order of the source; the same ones for the same text."""
    every = mutants(module, source)
    rng = random.Random(f"{seed}/{module}")  # noqa: S311 - reproducible, no secret
    return sorted(
        rng.sample(every, min(count or len(every), len(every))), key=lambda one: (one.start, one.end, one.now)
    )


def _digest(*texts: bytes) -> str:
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


class Verdicts:
    """What is known of each mutant: kept in a file of JSON lines, the last line of a mutant holds."""

    def __init__(self, file: Path, tests: dict[str, tuple[str, ...]], each: float) -> None:
        self._lock, self._each = threading.Lock(), each
        self._tests = {name: _digest(*((ROOT / test).read_bytes() for test in files)) for name, files in tests.items()}
        self._sources = {name: _digest((ROOT / f"{name}.py").read_bytes()) for name in tests}
        self._known: dict[tuple[str, int, int, str], str] = {}
        self._file = file
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                self._remember(json.loads(line))

    def _remember(self, said: dict[str, Any]) -> None:
        module = said["module"]
        same = said["source"] == self._sources.get(module)
        survivor = said["outcome"] == "survived"
        if same and not (survivor and (said["tests"] != self._tests[module] or said["each"] < self._each)):
            self._known[(module, said["start"], said["end"], said["now"])] = said["outcome"]

    def timings(self, module: str) -> Path:
        """Where the seconds and the lines of a module's tests are kept, as long as nothing of it changes."""
        name = f"{module.replace('/', '.')}-{self._sources[module]}-{self._tests[module]}.json"
        return self._file.with_suffix(".tests") / name

    def of(self, mutant: Mutant) -> str | None:
        """The outcome, if it is known."""
        return self._known.get((mutant.module, mutant.start, mutant.end, mutant.now))

    def add(self, mutant: Mutant, seed: int, answer: dict[str, Any], seconds: float) -> None:
        """Keep one."""
        module = mutant.module
        said = {"seed": seed, **answer, "seconds": round(seconds, 1), **asdict(mutant)}
        said |= {"each": self._each, "source": self._sources[module], "tests": self._tests[module]}
        with self._lock, self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(said) + "\n")
            self._remember(said)


@contextmanager
def _worker(original: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a copy of the tree of its own, in which it may change what it likes."""
    tree = scratch / "tree"
    shutil.copytree(original, tree)
    own = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "MUTANTS_SCRATCH": str(scratch)}
    own |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, "-m", "benchmarks.mutation.runner"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    process = subprocess.Popen(command, cwd=tree, env={**os.environ, **own}, **pipes)  # noqa: S603 - ourselves
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def _ask(process: subprocess.Popen[str], **job: Any) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a worker is asked through its pipes")
    process.stdin.write(json.dumps(job) + "\n")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process that runs the tests of {job['module']} has ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _work(
    work: SimpleQueue[tuple[str, list[Mutant]]],
    original: Path,
    tests: dict[str, tuple[str, ...]],
    verdicts: Verdicts,
    given: argparse.Namespace,
    ended: Callable[[], bool],
) -> None:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, _worker(original, Path(folder)) as process:
        while True:
            try:
                module, waiting = work.get_nowait()
            except Empty:
                return
            job = {"module": module, "tests": tests[module], "seconds": given.seconds, "each": given.each}
            job["known"] = str(verdicts.timings(module).resolve())
            ready = _ask(process, **job)
            if ready["outcome"] != "green":
                sys.stderr.write(f"{module}: its tests fail without a change:\n{ready['by']}\n")
                continue
            sys.stderr.write(f"{module}: {ready['by']}\n")
            for mutant in waiting:
                if ended():
                    return
                began = time.monotonic()
                answer = _ask(process, **job, mutant=asdict(mutant))
                verdicts.add(mutant, given.seed, answer, time.monotonic() - began)
                sys.stderr.write(f"{answer['outcome']}: {module}:{mutant.line} {mutant.was!r} -> {mutant.now!r}\n")


def _tell(chosen: dict[str, list[Mutant]], verdicts: Verdicts, out: TextIO) -> None:
    changeless = set(equivalents())
    out.write("| module | sampled | equivalent | killed | hung | survived | not run | noticed |\n")
    out.write("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
    surviving = []
    for module, picked in chosen.items():
        counts = Counter("equivalent" if key(one) in changeless else verdicts.of(one) or "not run" for one in picked)
        noticed, judged = counts["killed"] + counts["hung"], sum(counts[name] for name in _OUTCOMES)
        share = f"{noticed / judged:.0%}" if judged else "-"
        row = [f"`{module}`", len(picked), counts["equivalent"], *(counts[name] for name in _OUTCOMES)]
        out.write(f"| {' | '.join(map(str, [*row, counts['not run'], share]))} |\n")
        surviving += [one for one in picked if key(one) not in changeless and verdicts.of(one) == "survived"]
    for one in surviving:
        out.write(f"survived: {one.module}.py:{one.line}: {one.was!r} became {one.now!r}\n    {one.text}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Mutate, test, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of names, e.g. runs/push; all if none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=12, help="mutants per module; 0 for all")
    parser.add_argument("--seconds", type=float, default=240.0, help="after which the tests count as hung")
    parser.add_argument("--each", type=float, default=1e9, help="tests that take longer than this are left out")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further mutant is begun")
    parser.add_argument("--workers", type=int, default=1, help="mutants tested side by side")
    parser.add_argument("--out", type=Path, default=Path("artifacts/mutants.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing: only tell what is known")
    given = parser.parse_args(arguments)
    until, told = time.monotonic() + 60 * given.minutes, threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())  # the mutants at work are the last ones
    tests = nearest()
    named = [name for name in tests if not given.modules or any(part in name for part in given.modules)]
    chosen = {name: sample(name, (ROOT / f"{name}.py").read_text(), given.seed, given.count) for name in named}
    given.out.with_suffix(".tests").mkdir(parents=True, exist_ok=True)
    verdicts = Verdicts(given.out, tests, given.each)
    changeless = set(equivalents())
    work: SimpleQueue[tuple[str, list[Mutant]]] = SimpleQueue()

    def ended() -> bool:
        return told.is_set() or time.monotonic() > until

    for name, picked in chosen.items():
        if waiting := [one for one in picked if key(one) not in changeless and not verdicts.of(one)]:
            work.put((name, waiting))
    if not given.table and not work.empty():
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            original = Path(folder) / "tree"
            ignored = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "artifacts")
            shutil.copytree(ROOT, original, ignore=ignored)
            threads = [
                threading.Thread(target=_work, args=(work, original, tests, verdicts, given, ended))
                for _ in range(min(given.workers, work.qsize()))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    _tell(chosen, verdicts, sys.stdout)


if __name__ == "__main__":
    main()
