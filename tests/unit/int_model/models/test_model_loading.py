"""What a checkpoint folder may not do: bring code along, or hold tensors of another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from int_model.models.profile import Weights
from int_model.models.suite import load_suite
from int_model.models.weights import Source, WeightsError
from tests.unit.int_model.models.tiny_diffusion import save_stable_diffusion

FOLDERS = {"vlm": "vlm", "detector": "owl", "segmenter": "sam", "text_image": "clip"}
FILES = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
AUTOS = (
    "AutoConfig",
    "AutoModel",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoModelForImageTextToText",
    "AutoModelForZeroShotObjectDetection",
)


def code(marker: Path) -> str:
    """A module that leaves a mark when it is run (transformers copies it elsewhere first)."""
    return f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Thing: ...\n"


def copied(profile: Path, tmp_path: Path, role: str) -> Path:
    return Path(shutil.copytree(profile.parent / FOLDERS[role], tmp_path / role))


def load(profile: Path, role: str, folder: Path) -> Any:
    return getattr(load_suite(profile, device="cpu", overrides={f"{role}.id": str(folder)}, offline=True), role)


@pytest.mark.parametrize("role", FOLDERS)
@pytest.mark.parametrize("unknown", [False, True])
def test_code_in_a_checkpoint_neither_runs_nor_asks(
    profile: Path, tmp_path: Path, role: str, unknown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers knows is loaded without the code; what it does not know is refused."""
    folder = copied(profile, tmp_path, role)
    (folder / "evil.py").write_text(code(tmp_path / "has-run"))
    for name in FILES:
        if (folder / name).exists():
            options = json.loads((folder / name).read_text())
            options["auto_map"] = dict.fromkeys(AUTOS, "evil.Thing") | {"AutoTokenizer": ["evil.Thing", "evil.Thing"]}
            if unknown and name == "config.json":
                options["model_type"] = "evil"
            (folder / name).write_text(json.dumps(options))
    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    if unknown and role in ("vlm", "detector"):  # the others name their class of model themselves
        with pytest.raises(WeightsError, match=role):
            load(profile, role, folder)
    else:
        load(profile, role, folder)
    assert not asked
    assert not list(tmp_path.rglob("has-run"))


@pytest.mark.parametrize("role", FOLDERS)
def test_a_tensor_that_the_model_does_not_have_is_named(profile: Path, tmp_path: Path, role: str) -> None:
    folder = copied(profile, tmp_path, role)
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, "hq_token.weight": weights[name].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"'{role}'.*1 tensors that its model lacks .*hq_token\.weight.*{role}\.id"):
        load(profile, role, folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_tensor_that_a_part_of_a_pipeline_does_not_have_is_named(
    load_diffusers: Any, tmp_path: Path, part: str
) -> None:
    save_stable_diffusion(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    save_file({**weights, "more.weight": next(iter(weights.values())).clone()}, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"more\.weight.*inpainter\.id"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize(("revision", "warned"), [("main", True), ("v1.0", True), ("a" * 40, False)])
def test_weights_that_are_not_pinned_are_named(revision: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The weights of SAM 3 are gated, so the bundled profile cannot pin them for everybody."""
    weights = Weights(kind="sam3", id="facebook/sam3", revision=revision)
    source = Source.of("concepts", weights, device=torch.device("cpu"), offline=True)
    assert source.where["revision"] == revision
    assert ("set concepts.revision to a commit that you trust" in caplog.text) is warned
