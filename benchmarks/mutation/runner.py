"""Runs tests over changed modules, each time in a fork of a process that has the libraries loaded already.

``python -m benchmarks.mutation.runner`` runs in a copy of the tree. It reads jobs from its input, a line of JSON each,
and answers each with a line: without a mutant it runs the tests as they are, and keeps how long each took and which
lines of the module it went through; with one it runs those first that go through the changed lines, the quickest first,
and ends at the first that fails. It is single-threaded, so that forking it is safe.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks.mutation.changes import Mutant, applied

_SUBREAPER = 36  # linux/prctl.h: PR_SET_CHILD_SUBREAPER
_HUNG = 77


class Recorder:
    """Seconds of each test, with its fixtures, and the lines of ``file`` that it went through."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, list[int]] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        seen: set[int] = set()

        def called(frame: FrameType, _event: str, _value: object) -> Any:
            if frame.f_code.co_filename != self.file:
                return None
            seen.add(frame.f_lineno)
            return stepped

        def stepped(frame: FrameType, _event: str, _value: object) -> Any:
            seen.add(frame.f_lineno)
            return stepped

        began = time.monotonic()
        threading.settrace(called)
        sys.settrace(called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type] # takes None since ever
            self.seconds[item.nodeid] = time.monotonic() - began
            self.lines[item.nodeid] = sorted(seen)


class Order:
    """The tests that go through the changed lines first; ends the process when one takes far longer than it did."""

    def __init__(self, known: dict[str, Any], mutant: Mutant, each: float) -> None:
        self.seconds: dict[str, float] = known["seconds"]
        self.each = each
        self.failed = set(known["failed"])
        changed = range(mutant.line, mutant.last + 1)
        self.near = {name for name, lines in known["lines"].items() if any(line in changed for line in lines)}
        self.by = ""
        self.late = float("inf")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while time.monotonic() < self.late:
            time.sleep(0.2)
        os._exit(_HUNG)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        quick = [item for item in items if self.seconds.get(item.nodeid, 0.0) <= self.each]
        items[:] = [item for item in quick if item.nodeid not in self.failed]
        items.sort(key=lambda item: (item.nodeid not in self.near, self.seconds.get(item.nodeid, 0.0)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.late = time.monotonic() + 15.0 + 4 * self.seconds.get(item.nodeid, 0.0)
        try:
            return (yield)
        finally:
            self.late = float("inf")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.by:
            self.by = report.nodeid


class Runner:
    """The jobs of one copy of the tree, which is the current folder."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.scratch = Path(os.environ["MUTANTS_SCRATCH"])
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the tests of a module as they are, or over a mutant."""
        module, tests, limit = str(job["module"]), list(job["tests"]), float(job["seconds"])
        if not job.get("mutant"):
            return self._ready(module, tests, Path(job["known"]))
        mutant, file = Mutant(**job["mutant"]), Path(f"{module}.py")
        source = file.read_text(encoding="utf-8")
        _forget_compiled(file)
        file.write_bytes(applied(mutant, source))
        order = self.scratch / "by"
        order.unlink(missing_ok=True)

        def run() -> int:
            plugin = Order(self.known[module], mutant, float(job["each"]))
            code = pytest.main([*_OPTIONS, "-x", f"--basetemp={self.scratch / 'tmp'}", *tests], [plugin])
            order.write_text(plugin.by)
            return int(code)

        try:
            code = self._forked(run, limit)
        finally:
            file.write_text(source, encoding="utf-8")
            _forget_compiled(file)
        outcome = {0: "survived", _HUNG: "hung", None: "hung"}.get(code, "killed")
        return {"outcome": outcome, "by": order.read_text() if order.exists() else ""}

    def _ready(self, module: str, tests: list[str], kept: Path) -> dict[str, Any]:
        """Have the seconds and the lines of the tests in ``kept``, and all their libraries loaded."""

        def run() -> int:
            recorder = Recorder(str(Path(f"{module}.py").resolve()))
            code = int(pytest.main([*_OPTIONS, f"--basetemp={self.scratch / 'tmp'}", *tests], [recorder]))
            ours = str(Path.cwd())
            files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
            libraries = [name for name, file in files.items() if file and not str(file).startswith(ours)]
            if code == 0 or len(recorder.failed) < len(recorder.seconds) / 2:  # those are left out
                said = {"seconds": recorder.seconds, "lines": recorder.lines, "failed": sorted(recorder.failed)}
                said["libraries"] = libraries
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(said))
            return code

        if not kept.exists():
            self._forked(run, 500.0, writes_bytecode=True)
        if not kept.exists():
            return {"outcome": "red", "by": (self.scratch / "log").read_text(errors="replace")[-1500:]}
        known = json.loads(kept.read_text())
        with (self.scratch / "log").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            for name in known["libraries"]:
                with contextlib.suppress(BaseException):
                    importlib.import_module(name)
        self.known[module] = known
        failed = "".join(f"; left out, as it fails by itself: {name}" for name in known["failed"])
        return {"outcome": "green", "by": f"{len(known['seconds'])} tests{failed}"}

    def _forked(self, run: Any, limit: float, *, writes_bytecode: bool = False) -> int | None:
        """The status that ``run`` ended with in a process of its own; None if it took longer than ``limit`` seconds."""
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.setsid()
                self._quieten(writes_bytecode)
                code = run()
            except BaseException:  # noqa: BLE001 - a child must never go on as its parent
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        handle = os.pidfd_open(child)
        try:
            ended, _, _ = select.select([handle], [], [], limit)
            _end_group(child)
            status = os.waitpid(child, 0)[1]
        finally:
            os.close(handle)
            _end_orphans()
            shutil.rmtree(self.scratch / "tmp", ignore_errors=True)
        return os.waitstatus_to_exitcode(status) if ended else None

    def _quieten(self, writes_bytecode: bool) -> None:
        log = os.open(self.scratch / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, what in ((0, null), (1, log), (2, log)):
            os.dup2(what, number)
        sys.dont_write_bytecode = not writes_bytecode
        if writes_bytecode:
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


_OPTIONS = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not e2e"]


def _forget_compiled(file: Path) -> None:
    """Compiled files know their source by its length and its second: too coarse for what is done here."""
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        compiled.unlink()


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _end_orphans() -> None:
    """End what the tests left behind: a subreaper inherits it."""
    own = str(os.getpid())
    while True:
        listed = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        if not listed:
            return
        for child in map(int, listed):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def main() -> None:
    """Answer jobs until the input ends."""
    runner = Runner()
    for line in sys.stdin:
        answer = runner.answer(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
