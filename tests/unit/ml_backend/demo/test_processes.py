"""Children end with their whole group, whatever they try, and a dead or silent one is reported with its log."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ml_backend.demo.processes import Child, DemoError, Interrupted, free_port, group_members, run_logged, signals_raise

FAMILY = """
import signal, subprocess, sys, time
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("born", flush=True)
time.sleep(600)
"""


def _start(tmp_path: Path, code: str) -> Child:
    return Child.start("child", [sys.executable, "-c", code], log=tmp_path / "log", env=os.environ, cwd=tmp_path)


def _wait_for(child: Child, text: str) -> None:
    for _ in range(300):
        if text in child.log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{text!r} not in the log:\n{child.tail()}")


@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_ends_the_whole_group(tmp_path: Path, stubborn: bool) -> None:
    child = _start(tmp_path, FAMILY.format(stubborn=stubborn))
    _wait_for(child, "born")
    assert len(group_members(child.process.pid)) == 2
    child.stop(grace_seconds=1.0)
    assert group_members(child.process.pid) == []
    assert child.process.returncode is not None


def test_stop_reaches_grandchildren_of_a_dead_leader(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    child = _start(tmp_path, code)
    child.process.wait(timeout=30)
    assert len(group_members(child.process.pid)) == 1
    child.stop(grace_seconds=1.0)
    assert group_members(child.process.pid) == []


def test_stop_twice_is_harmless(tmp_path: Path) -> None:
    child = _start(tmp_path, "pass")
    child.stop()
    child.stop()


def test_wait_until_up_reports_an_early_end_with_the_log(tmp_path: Path) -> None:
    child = _start(tmp_path, "import sys; print('no database'); sys.exit(3)")
    with pytest.raises(DemoError, match=r"(?s)ended with code 3.*no database"):
        child.wait_until_up(f"http://127.0.0.1:{free_port()}/", seconds=30)


def test_wait_until_up_gives_up(tmp_path: Path) -> None:
    child = _start(tmp_path, "import time; time.sleep(600)")
    try:
        with pytest.raises(DemoError, match="did not answer"):
            child.wait_until_up(f"http://127.0.0.1:{free_port()}/", seconds=0.5)
    finally:
        child.stop()


def test_wait_until_up_returns_when_it_answers(tmp_path: Path) -> None:
    port = free_port()
    child = _start(
        tmp_path, f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
    )
    try:
        assert child.wait_until_up(f"http://127.0.0.1:{port}/", seconds=30) < 30
    finally:
        child.stop()


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_run_logged_raises_with_the_log_of_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such package')"]
    with pytest.raises(DemoError, match=r"(?s)installing failed \(code 1\).*no such package"):
        run_logged(command, log=tmp_path / "log", what="installing", cwd=tmp_path, tell=lambda _: None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_raise_and_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, signals_raise():
        signal.raise_signal(number)
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_a_terminated_parent_takes_its_children_along(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        from ml_backend.demo.processes import Child, Interrupted, signals_raise, signals_wait
        child = None
        try:
            with signals_raise():
                sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
                child = Child.start("sleeper", sleeper, log=Path("log"), env=os.environ, cwd=Path.cwd())
                print(child.process.pid, flush=True)
                time.sleep(600)
        except Interrupted:
            with signals_wait():
                child.stop()
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    assert group_members(group)
    parent.terminate()
    parent.wait(timeout=30)
    assert group_members(group) == []


def test_a_signal_while_a_child_is_born_waits_until_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def interrupted_popen(*args: object, **options: object) -> object:
        process = popen(*args, **options)  # type: ignore[call-overload]
        signal.raise_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr("ml_backend.demo.processes.subprocess.Popen", interrupted_popen)
    known: list[Child] = []
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(Interrupted), signals_raise():
        Child.start("child", command, log=tmp_path / "log", env=os.environ, cwd=tmp_path, adopt=known.append)
    (child,) = known
    assert group_members(child.process.pid)
    child.stop()
    assert group_members(child.process.pid) == []
