"""The demo's check, as a person runs it: status 0, every sample annotated, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


def _command(program: Path, folder: Path) -> list[str]:
    places = ["--folder", str(folder), "--label-studio", str(program.parent.parent)]
    return [sys.executable, "-m", "ml_backend.demo", "--check", *places]


def test_demo_check_annotates_every_sample_and_leaves_nothing(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = _command(label_studio_program, folder)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout
    assert _processes_with(str(folder)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(label_studio_program: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(_command(label_studio_program, folder), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server = str(folder / "label-studio")
    deadline = time.monotonic() + 120
    while not _processes_with(server):  # its working folder
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, output
    assert _processes_with(str(folder)) == []


def test_a_second_demo_in_the_same_folder_is_refused(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = subprocess.Popen(_command(label_studio_program, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "logs" / "label-studio.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        command = _command(label_studio_program, folder)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert "another demo runs" in second.stdout
    finally:
        first.terminate()
        first.wait(timeout=60)
