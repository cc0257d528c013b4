"""What the commands do with files, folders and outputs that are not as they should be: one line each, then go on."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image as PilImage
from typer.testing import CliRunner

from int_model.evaluation import load_evaluation
from int_model.models import suite as suites
from ml_backend.cli import main as cli
from tests.support.fakes import TASK, FakeSegmenter, fake_suite, scene
from tests.support.folders import refuse_to_list
from tests.unit.int_model.io.medical.files import ct

Run = Callable[..., Result]
COMMANDS = {
    "segment": ("segment", "in", "--task", TASK, "--strategy", "grounded_sam"),
    "evaluate": ("evaluate", "in", "truth", "--task", TASK, "--strategies", "grounded_sam", "--rounds", "5"),
    "bootstrap": ("bootstrap", "in", "--task", TASK, "--strategy", "grounded_sam", "--formats", "coco"),
}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes in place of checkpoints; the profiles that were loaded."""
    calls: list[str] = []

    def load(profile: Any, **_: Any) -> Any:
        calls.append(profile.name)
        return fake_suite()

    monkeypatch.setattr(suites, "load_suite", load)
    return calls


@pytest.fixture
def run(loads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command over ``in``: two frogs, one of them in a folder, with their masks in ``truth``."""
    monkeypatch.chdir(tmp_path)
    image, (mask,) = scene(objects=[("frog", 40, 40, 15)])
    for name in ("good.png", "sub/other.png"):
        for folder, array in (("in", image), ("truth", mask.astype(np.uint8) * 255)):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            PilImage.fromarray(array).save(tmp_path / folder / name)

    def invoke(command: str, *arguments: str, out: str = "out") -> Result:
        given = [*COMMANDS[command], "--out", out, *arguments]
        return CliRunner().invoke(cli.app, given, env={"COLUMNS": "200", "TERM": "dumb"})

    return invoke


def outcome(command: str, out: Path) -> tuple[int, int]:
    """How many images a command did, and how many failed."""
    if command == "segment":
        page = (out / "report.html").read_text()
        return len(list((out / "trace").glob("*.json"))), page.count('class="notice bad"')
    if command == "evaluate":
        (row,) = load_evaluation(out / "evaluation.json").summary()
        return row.images, row.failed
    done = [image for file in (out / "annotations").iterdir() for image in json.loads(file.read_text())["images"]]
    return len(done), len(list(csv.DictReader((out / "failed.csv").open())))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_in_a_circle_is_one_failed_image(command: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in/loop.png").symlink_to("loop.png")
    (tmp_path / "truth/loop.png").symlink_to("loop.png")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    result = run(command)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if "this link leads to no file" in line]
    assert "loop" in line
    assert outcome(command, tmp_path / "out") == (2, 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_read_is_one_line_and_the_rest_is_done(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_list(monkeypatch, tmp_path / "in/sub")
    result = run(command)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if "the folder cannot be read (Permission denied)" in line]
    assert "sub" in line
    assert outcome(command, tmp_path / "out") == (1, 1)


@pytest.mark.parametrize("closed", ["in", "truth/sub", "truth"])
def test_folders_of_an_evaluation_that_cannot_be_read_are_broken_examples(
    closed: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_list(monkeypatch, tmp_path / closed)
    result = run("evaluate")
    assert result.exit_code == 1, result.output
    assert outcome("evaluate", tmp_path / "out") == (int(closed == "truth/sub"), 1)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_an_out_that_is_a_file_is_refused_before_models_are_loaded(
    command: str, out: str, run: Run, tmp_path: Path, loads: list[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    result = run(command, out=out)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.endswith("; choose another --out")
    assert not loads
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_out_that_is_read_only_is_refused_before_models_are_loaded(
    command: str, run: Run, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    result = run(command, out="new/out")
    assert result.exit_code == 2, result.output
    assert "nothing can be written to 'new/out' (Read-only file system); choose another --out" in result.stderr
    assert not loads


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_folders_above_an_out_are_made(command: str, run: Run, tmp_path: Path) -> None:
    assert run(command, out="a/b/out").exit_code == 0
    assert outcome(command, tmp_path / "a/b/out") == (2, 0)


def test_results_of_an_earlier_version_are_refused_before_models_are_loaded(
    run: Run, tmp_path: Path, loads: list[str]
) -> None:
    (tmp_path / "out/results/ab").mkdir(parents=True)
    (tmp_path / "out/results/ab/abcd.json").write_text("{}")
    result = run("evaluate")
    assert result.exit_code == 2, result.output
    assert "were made by an earlier version of this program; choose another --out" in result.stderr
    assert not loads


@pytest.mark.parametrize("command", ["segment", "bootstrap"])
def test_dicom_files_are_images_like_any_other(command: str, run: Run, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2000, (64, 80), dtype=np.int16)
    (tmp_path / "in/slice.dcm").write_bytes(ct(values))
    result = run(command)
    assert result.exit_code == 0, result.output
    assert outcome(command, tmp_path / "out") == (3, 0)


class Broken(FakeSegmenter):
    """Fails on every image."""

    def encode(self, images: Any) -> Any:
        raise RuntimeError("no such kernel")


def test_images_that_failed_are_not_counted_as_segmented(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "load_suite", lambda *_, **__: fake_suite(segmenter=Broken()))
    result = run("bootstrap")
    assert result.exit_code == 1
    assert "0 of 2 images segmented, 2 failed, " in result.stderr


@pytest.mark.parametrize(
    ("root", "sentence"), [("truth", "lies outside"), ("nowhere", "'nowhere' is no folder; choose another")]
)
def test_a_document_root_without_the_images_is_refused_before_models_are_loaded(
    root: str, sentence: str, run: Run, loads: list[str]
) -> None:
    result = run("bootstrap", "--ls-local-root", root)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert not loads, "it used to be found out after hours of work"


def test_a_full_disk_is_one_sentence_with_a_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/images/train/good.png")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    result = run("bootstrap")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("int-backend: 'out/images/train/good.png': the disk is full (")
    assert "make room" in last
