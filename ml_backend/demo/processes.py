"""Child processes that never outlive us: each in its own process group, stopped as a group, logging to a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

_POLL_SECONDS = 0.2


class DemoError(RuntimeError):
    """Something that a person can mend; its text is one sentence that says what and how."""


def free_port() -> int:
    """A TCP port of the loopback interface that is free right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def group_members(group: int) -> list[int]:
    """The living (not zombie) processes of a process group, by ``/proc``; elsewhere the leader if it lives."""
    root = Path("/proc")
    if not (root / "self" / "stat").exists():
        return [group] if _group_answers(group) else []
    members = []
    for entry in root.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid pgrp ...": the name may itself hold spaces and brackets.
            state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(pgrp) == group and state not in "ZX":
            members.append(int(entry.name))
    return members


def _group_answers(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@dataclass
class Child:
    """A running child, leader of its own process group, with the file that gets its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stopped: bool = False

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path,
        adopt: Callable[[Child], None] | None = None,
    ) -> Child:
        """Start ``command``; its stdout and stderr go to ``log`` (overwritten).

        ``adopt`` gets the child before any signal can interrupt us, so that it is known and can be stopped.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink, _signals_held():
            process = subprocess.Popen(  # noqa: S603 - a command that we put together
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
            child = cls(name=name, process=process, log=log)
            if adopt is not None:
                adopt(child)
        return child

    @classmethod
    def serve(cls, name: str, command: Sequence[str], url: str, seconds: float, **how: Any) -> Child:
        """Start a server and wait until ``url`` answers; ``how`` as for `start`. Raises `DemoError`, and stops it."""
        child = cls.start(name, command, **how)
        try:
            child.wait_until_up(url, seconds)
        except BaseException:
            child.stop()
            raise
        return child

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until_up(self, url: str, seconds: float) -> float:
        """Wait until ``url`` answers below 500; returns the seconds it took.

        Raises:
            DemoError: the child ended, or did not answer in time; the text ends with the log's last lines.
        """
        started = time.monotonic()
        while (waited := time.monotonic() - started) < seconds:
            code = self.process.poll()
            if code is not None:
                raise DemoError(f"{self.name} ended with code {code}; see {self.log}:\n{self.tail()}")
            try:
                if httpx.get(url, timeout=2.0, trust_env=False).status_code < 500:
                    return waited
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(_POLL_SECONDS)
        raise DemoError(f"{self.name} did not answer at {url} within {seconds:.0f} s; see {self.log}:\n{self.tail()}")

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End the whole group: first politely, after ``grace_seconds`` by force. Does nothing the second time."""
        if self.stopped:
            return
        group = self.process.pid
        for sign, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
            try:
                os.killpg(group, sign)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                self.process.poll()  # reaps the leader, whose zombie would else keep the group alive
                if not group_members(group):
                    break
                time.sleep(_POLL_SECONDS)
            else:
                continue
            break
        self.process.wait(timeout=grace_seconds)
        self.stopped = True


class Interrupted(BaseException):
    """A signal asked us to stop. Not an ``Exception``, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Held:
    """Signals that came while a child was being born; they are raised once it is known to its owner."""

    depth: int = 0
    number: int | None = None


_held = _Held()


@contextmanager
def _signals_held() -> Iterator[None]:
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
    if _held.depth == 0 and _held.number is not None:
        number, _held.number = _held.number, None
        raise Interrupted(number)


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    del frame
    if _held.depth:
        _held.number = number
    else:
        raise Interrupted(number)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP raise `Interrupted`, so that ``finally`` blocks run."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _raise_interrupted) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP are ignored: an impatient second Ctrl-C must not stop the stopping."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    what: str,
    cwd: Path,
    tell: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> None:
    """Run ``command`` to its end in its own group, output to ``log``; say now and then that it still goes on.

    Raises:
        DemoError: it failed; the text ends with the log's last lines.
    """
    started = time.monotonic()
    born: list[Child] = []
    try:
        environment = os.environ if env is None else env
        child = Child.start(what, command, log=log, env=environment, cwd=cwd, adopt=born.append)
        next_word = 30.0
        while child.process.poll() is None:
            time.sleep(_POLL_SECONDS)
            if (waited := time.monotonic() - started) > next_word:
                tell(f"still at it: {what} ({waited:.0f} s)")
                next_word += 30.0
    finally:
        with signals_wait():
            for each in born:
                each.stop()
    if child.process.returncode != 0:
        raise DemoError(f"{what} failed (code {child.process.returncode}); see {log}:\n{child.tail()}")
