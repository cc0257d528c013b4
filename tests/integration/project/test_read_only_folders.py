"""Folders that really are read-only: one sentence that names what to set, before anything is loaded or listens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image as PilImage

from ml_backend.storage.store import Project, Store

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kept"
    made.mkdir()
    return made


@pytest.fixture
def run(tmp_path: Path, folder: Path) -> Iterator[Run]:
    """Runs a command to which ``folder`` is read-only: by its mode, or for root, whom modes do not stop, by a mount."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        prefix = ["unshare", "--mount", "sh", "-c", _MOUNT, str(folder)]
        if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
            pytest.skip("root without the right to mount cannot make a folder read-only for itself")

    def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        folder.chmod(0o555)
        program = [*prefix, sys.executable, "-m", "ml_backend.cli.main", *arguments]
        given = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
        return subprocess.run(
            program, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120, check=False
        )

    yield command
    folder.chmod(0o755)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("data", ["", "below"])
def test_serve_names_the_setting_and_does_not_listen(run: Run, folder: Path, data: str) -> None:
    done = run("serve", "--port", "0", INT_DATA_DIR=str(folder / data))
    assert done.returncode == 2
    assert "set INT_DATA_DIR to another" in told(done)


def test_runs_of_a_read_only_folder_say_what_to_set(run: Run, folder: Path) -> None:
    store = Store.in_folder(folder)
    store.save_project(Project("1"))
    store.close()
    done = run("runs", "list", INT_DATA_DIR=str(folder))
    assert done.returncode != 0
    assert "INT_DATA_DIR" in told(done)


@pytest.mark.parametrize("command", ["segment", "bootstrap"])
def test_an_out_that_is_read_only_is_refused_before_models_are_loaded(
    run: Run, tmp_path: Path, folder: Path, command: str
) -> None:
    (tmp_path / "in").mkdir()
    PilImage.new("RGB", (32, 32)).save(tmp_path / "in" / "a.png")
    task = ["--task", "frog"]
    done = run(command, "in", *task, "--out", str(folder / "out"))
    assert done.returncode == 2
    assert "nothing can be written to" in told(done)
    assert list(folder.iterdir()) == []
