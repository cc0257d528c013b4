"""The demo's check, as a person runs it: status 0, every sample annotated, nothing left running."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_demo_check_annotates_every_sample_and_leaves_nothing(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "ml_backend.demo", "--check", "--folder", str(folder)]
    venv = str(label_studio_program.parent.parent)
    done = subprocess.run(
        [*command, "--label-studio", venv], cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout
    assert _processes_with(str(folder)) == []
