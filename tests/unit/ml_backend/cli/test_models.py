"""``int-backend models`` on a database: what a project learned is looked at, promoted and rolled back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from int_model.learning.adaptation import Adaptation, Outline
from int_model.learning.bundle import Manifest, pack
from int_model.models.identity import segmenter_fingerprint
from ml_backend.cli import main as cli
from ml_backend.learning.versions import Versions
from ml_backend.settings import Settings
from ml_backend.storage.database import Database

TABLE = {"base": {"click": 0.4, "box": 0.6, "mean": 0.5}, "outlines": {"click": 0.7, "box": 0.8, "mean": 0.75}}
GAIN = {"value": 0.25, "lower": 0.1, "images": 9}


def bundle(slot: int, *, base: str = "", parent: str = "", **figures: Any) -> bytes:
    fits = base or segmenter_fingerprint(Settings().models.read_profile())
    whole = {"table": TABLE, "gain": GAIN, "end_to_end": {"parent": 0.5, "candidate": 0.6}, **figures}
    manifest = Manifest(base=fits, data="d", arm="outlines", parent=parent, images=9, figures=whole)
    return pack(Adaptation(outlines={"polyp": Outline(slot)}), manifest)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(Database.in_folder(tmp_path))


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    env = {"INT_DATA_DIR": str(folder), "COLUMNS": "200"}
    result = CliRunner().invoke(cli.app, ["models", *arguments, "--project", "7"], env=env)
    return result.exit_code, result.output


def test_versions_are_listed_with_the_word_of_the_gate(tmp_path: Path, versions: Versions) -> None:
    versions.add(7, bundle(1), accepted=True, serve=True)
    versions.add(7, bundle(2, reasons=["it leaks"]), accepted=False)
    status, output = run(tmp_path, "list")
    assert status == 0
    rows = [line for line in output.splitlines() if line.lstrip("│ ").startswith(("v1", "v2", "base"))]
    assert ["refused" in rows[0], "accepted" in rows[1], "yes" in rows[1], "yes" in rows[2]] == [
        True,
        True,
        True,
        False,
    ]
    listed = json.loads(run(tmp_path, "list", "--json")[1])
    assert [(one["name"], one["serving"], one["accepted"]) for one in listed] == [
        ("v2", False, False),
        ("v1", True, True),
        ("base", False, True),
    ]


def test_one_version_is_shown_with_figures_worst_images_and_history(tmp_path: Path, versions: Versions) -> None:
    report = {"worst": [{"image": "task 5", "iou": 0.31}]}
    first = versions.add(7, bundle(1), accepted=True, serve=True, report=report)
    versions.name(7, "int-nano-x", first.id)
    status, output = run(tmp_path, "show", "v1")
    assert status == 0
    for text in ("v1", "serves now", "outlines from 9 images", "accepted", "+0.250", "0.600 after", "task 5: IoU 0.310",
                 "int-nano-x", "began to serve (gate, the gate)"):  # fmt: skip
        assert text in output
    shown = json.loads(run(tmp_path, "show", first.id, "--json")[1])
    assert (shown["figures"]["table"], shown["history"][0]["how"]) == (TABLE, "gate")
    assert "the models as they are" in run(tmp_path, "show", "base")[1]
    status, output = run(tmp_path, "show", "v9")
    assert status == 2
    assert "project 7 has no version 'v9'; it has: v1, base" in " ".join(output.split())


def test_promotion_and_rollback_from_the_command_line(tmp_path: Path, versions: Versions) -> None:
    first = versions.add(7, bundle(1), accepted=True)
    versions.add(7, bundle(2, reasons=["it leaks"]), accepted=False)
    versions.add(7, bundle(3, base="feedfeedfeedfeed"), accepted=True)
    assert run(tmp_path, "promote", "v1") == (0, "v1 serves project 7 from the next request on\n")
    assert versions.serving(7).id == first.id
    status, output = run(tmp_path, "promote", "v2")
    assert (status, "the gate refused v2 (it leaks); use --force" in " ".join(output.split())) == (2, True)
    assert run(tmp_path, "promote", "v2", "--force")[0] == 0
    status, output = run(tmp_path, "promote", "v3")
    assert (status, "was trained on another segmenter" in " ".join(output.split())) == (2, True)
    status, output = run(tmp_path, "rollback")
    assert (status, "v1 serves project 7 again, instead of v2" in output) == (0, True)
    assert "models predictions --project 7 v2 [--remove]" in output
    assert "base serves project 7 again" in run(tmp_path, "rollback")[1]
    assert run(tmp_path, "rollback")[0] == 2
    assert all(entry.who.endswith("command line") for entry in versions.history(7))


def test_predictions_need_label_studio(tmp_path: Path, versions: Versions) -> None:
    versions.add(7, bundle(1), accepted=True)
    status, output = run(tmp_path, "predictions", "v1")
    assert (status, "LABEL_STUDIO_URL" in output) == (2, True)
    assert "name a version" in run(tmp_path, "predictions", "base")[1]
