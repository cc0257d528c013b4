"""The demo's check, as a person runs it: status 0, every sample annotated, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.e2e


def _processes_with(marker: str) -> list[str]:
    """Command lines and working folders of the living processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cwd = str((entry / "cwd").readlink())
            except OSError:
                continue
            if marker in text or marker in cwd:
                found.append(f"{entry.name}: {text}")
    return found


@contextmanager
def _demo(program: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running ``--check``; told to stop at the end, so that it stops its own children, whatever the test did."""
    places = ["--folder", str(folder), "--label-studio", str(program.parent.parent)]
    command = [sys.executable, "-m", "ml_backend.cli", "demo", "--check", *places]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.communicate(timeout=60)


def _wait_until_started(demo: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not _processes_with(str(folder / "label-studio")):  # the server's working folder
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_demo_check_annotates_every_sample_and_leaves_nothing(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as demo:
        output, _ = demo.communicate(timeout=1500)
    assert demo.returncode == 0, output
    assert "missing" not in output
    assert _processes_with(str(folder)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(label_studio_program: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as demo:
        _wait_until_started(demo, folder)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, output
    assert _processes_with(str(folder)) == []


def test_a_second_demo_in_the_same_folder_is_refused(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as first:
        _wait_until_started(first, folder)
        with _demo(label_studio_program, folder) as second:
            output, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "another demo runs" in output
        assert first.poll() is None
