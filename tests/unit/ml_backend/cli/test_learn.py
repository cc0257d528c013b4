"""``int-backend learn`` on an export, and a server that takes what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from int_model.core.task_prompt import TaskPrompt
from int_model.learning.arms.outlines import overlap
from int_model.learning.bundle import read_manifest
from int_model.nano.conventions import annotated_scene
from ml_backend.cli import main as cli
from ml_backend.serving.model_loading import identify, load_strategy
from ml_backend.settings import Settings
from tests.support.corrected import corrected_export

LABELS = {"polyp": "Polyp", "skin lesion": "Lesion"}
TASKS = ["--task", "Polyp=polyp", "--task", "Lesion=skin lesion"]


def learn(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["learn", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What seven corrected images teach: below eight no weights are trained, so that this takes seconds."""
    folder = tmp_path_factory.mktemp("learn")
    export, images = corrected_export(folder, "halo", 7, label_of=LABELS)
    status, output = learn(
        str(export), str(images), *TASKS, "--strategy", "grounded_sam", "--device", "cpu", "--out", str(folder / "out")
    )
    assert status in (0, 1), output
    return folder / "out", output


def test_the_report_says_what_was_compared_and_decided(learned: tuple[Path, str]) -> None:
    folder, output = learned
    report = json.loads((folder / "learning.json").read_text())
    assert set(report["table"]) == {"base", "slots", "outlines"}
    assert report["images"] == 7
    assert report["table"]["outlines"]["mean"] > report["table"]["base"]["mean"]
    assert report["worst"][0]["image"].startswith("task ")
    assert ("serve it with --adapter" in output) == report["promoted"]
    assert all(reason in " ".join(output.split()) for reason in report["reasons"])


def test_exactly_one_bundle_is_there_and_names_its_segmenter(learned: tuple[Path, str]) -> None:
    folder, _ = learned
    (path,) = folder.glob("*.safetensors")
    report = json.loads((folder / "learning.json").read_text())
    assert (path.name == "adapter.safetensors") == report["promoted"]
    manifest = read_manifest(path.read_bytes())
    assert manifest.images == 7
    assert manifest.settings["strategy"] == "grounded_sam"


def test_a_server_takes_what_was_learned_and_says_so_in_its_version(learned: tuple[Path, str]) -> None:
    (path,) = learned[0].glob("*.safetensors")
    plain = Settings(strategy="grounded_sam", device="cpu")
    taught = Settings(strategy="grounded_sam", device="cpu", adapter=path)
    report = json.loads((learned[0] / "learning.json").read_text())
    assert identify(plain).adapter == ""
    assert identify(taught).adapter == report["id"]
    assert identify(taught).cache_version_of("") != identify(plain).cache_version_of("")
    base, models = load_strategy(plain), load_strategy(taught)
    before, after = [], []
    for index in range(40, 50):
        scene = annotated_scene("halo", index)
        images, task = [scene.image], TaskPrompt(scene.task)
        truth = np.any(scene.masks, axis=0)
        own = models.segment(images, task)[0].mask
        before.append(overlap(base.segment(images, task)[0].mask, truth))
        after.append(overlap(own, truth))
        assert np.array_equal(models.of_strategy("grounded_sam").segment(images, task)[0].mask, own)
    assert np.mean(after) > np.mean(before) + 0.03  # held-out images


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--task", "Other=polyp"], "0 images have regions with the labels 'Other'"),
        ([], "there is no task"),
        (["--task", "Polyp=polyp", "--set", "x=1"], "there is no option 'x'"),
        (["--task", "Polyp=polyp", "--out", "/proc/nowhere"], "choose another --out"),
    ],
)
def test_wrong_usage_is_one_sentence_before_any_model_is_loaded(arguments: list[str], why: str, tmp_path: Path) -> None:
    export, images = corrected_export(tmp_path, "halo", 2, label_of=LABELS)
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    status, output = learn(str(export), str(images), *arguments, *out)
    assert status == 2
    assert why in " ".join(output.split())


def test_a_bundle_that_is_none_is_refused_before_the_models_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"not a bundle at all")
    with pytest.raises(ValueError, match=r"adapter\.safetensors.*no bundle of learned weights"):
        identify(Settings(adapter=path))
    with pytest.raises(ValueError, match="cannot be read"):
        identify(Settings(adapter=tmp_path / "absent.safetensors"))


def test_a_bundle_of_another_segmenter_is_refused(learned: tuple[Path, str]) -> None:
    (path,) = learned[0].glob("*.safetensors")
    other = {"segmenter.id": "facebook/sam-vit-base", "segmenter.revision": "main"}
    with pytest.raises(ValueError, match="trained on another segmenter"):
        identify(Settings(adapter=path, profile_overrides=other))
