from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from int_model.models.identity import profile_fingerprint, weights_identity
from int_model.models.profile import DetectorRole, DiffusersRole, OpenCVRole, Weights
from int_model.models.protocols import Detector, Inpainter, Segmenter, TextImage, VisionLanguage
from int_model.models.suite import ModelSuite, ProfileError, load_suite, profile_names, read_profile
from int_model.models.weights import WeightsError
from tests.unit.int_model.models.tiny import picture
from tests.unit.int_model.models.tiny_diffusion import save_stable_diffusion


def test_a_profile_file_is_loaded_into_five_roles(suite: ModelSuite) -> None:
    protocols = {
        "vlm": VisionLanguage,
        "inpainter": Inpainter,
        "detector": Detector,
        "segmenter": Segmenter,
        "text_image": TextImage,
    }
    for role, protocol in protocols.items():
        assert isinstance(getattr(suite, role), protocol)
    assert (suite.profile, suite.device, suite.int_overrides) == ("tiny", "cpu", {"iterations": 2})
    assert len(suite.fingerprint) == 16


@pytest.mark.parametrize("name", ["llava", "llava-16gb", "medical", "nano", "nano-names", "qwen"])
def test_shipped_profiles_are_valid_and_pinned(name: str) -> None:
    assert name in profile_names()
    profile = read_profile(name)
    assert profile.meta.description
    assert set(profile.meta.licences) == {"vlm", "inpainter", "detector", "segmenter", "text_image"}
    for role in ("vlm", "inpainter", "detector", "segmenter", "text_image"):
        settings = getattr(profile, role)
        if isinstance(settings, Weights) and not settings.id.startswith("bundled:"):
            assert len(settings.revision) == 40, f"{role} is pinned to a commit"


def test_the_nano_profile_needs_nothing_from_a_hub() -> None:
    profile = read_profile("nano")
    assert isinstance(profile.inpainter, OpenCVRole)
    for role in ("vlm", "detector", "segmenter", "text_image"):
        assert getattr(profile, role).id.startswith("bundled:")


def test_overrides_replace_single_keys_with_conversion() -> None:
    profile = read_profile("llava", {"vlm.max_batch": "3", "vlm.padded": "false", "int.pnm.key": "name"})
    assert (profile.vlm.max_batch, profile.vlm.padded) == (3, False)
    assert profile.int_overrides == {"pnm": {"key": "name"}}


def test_another_id_does_not_keep_the_old_commit() -> None:
    assert read_profile("llava", {"segmenter.id": "facebook/sam-vit-base"}).segmenter.revision == "main"
    pinned = read_profile("llava", {"segmenter.id": "facebook/sam-vit-base", "segmenter.revision": "70c1a07"})
    assert pinned.segmenter.revision == "70c1a07"
    same = read_profile("llava", {"segmenter.id": "facebook/sam-vit-huge"})
    assert same.segmenter == read_profile("llava").segmenter


def test_another_kind_drops_the_old_kinds_options() -> None:
    profile = read_profile("llava", {"inpainter.method": "ns", "inpainter.kind": "opencv"})
    assert profile.inpainter == OpenCVRole(method="ns")
    back = read_profile("nano", {"inpainter.kind": "diffusers", "inpainter.id": "a/b", "inpainter.steps": 4})
    assert isinstance(back.inpainter, DiffusersRole)


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("lava", {}, "no profile 'lava'; use one of edge, llava"),
        ("missing.toml", {}, "cannot be read"),
        ("nano", {"segmentor.id": "x"}, "'segmentor.id' overrides nothing"),
        ("nano", {"segmenter": "x"}, "'segmenter' overrides nothing"),
        ("nano", {"segmenter.sise": 3}, r"segmenter\.sise"),
        ("nano", {"vlm.max_batch": 0}, r"vlm\.max_batch"),
        ("nano", {"inpainter.kind": "magic"}, "inpainter"),
        ("nano", {"detector.template": "moth"}, "where the name goes"),
        ("nano", {"vlm.units": "pixel", "vlm.max_side": 512}, "max_side = 0"),
    ],
)
def test_mistakes_are_named(profile: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        read_profile(profile, overrides)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[vlm\n")
    with pytest.raises(ProfileError, match="is not TOML"):
        read_profile(tmp_path / "bad.toml")


def test_progress_is_reported_role_by_role(profile: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    load_suite(profile, device="cpu", progress=lambda role, done, total: seen.append((role, done, total)))
    assert seen == [
        ("vlm", 0, 5),
        ("inpainter", 1, 5),
        ("detector", 2, 5),
        ("segmenter", 3, 5),
        ("text_image", 4, 5),
        ("ready", 5, 5),
    ]


def test_the_fingerprint_follows_weights_and_options_but_not_batch_sizes(
    suite: ModelSuite, profile: Path, tmp_path: Path
) -> None:
    def fingerprint(**overrides: Any) -> str:
        return load_suite(profile, device="cpu", overrides=overrides).fingerprint

    assert fingerprint(**{"vlm.max_batch": 2}) == suite.fingerprint
    assert fingerprint(**{"text_image.surgery_layers": 3}) != suite.fingerprint
    moved = shutil.copytree(profile.parent / "sam", tmp_path / "elsewhere")
    assert fingerprint(**{"segmenter.id": str(moved)}) == suite.fingerprint
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"})
    assert fingerprint(**{"segmenter.id": str(moved)}) != suite.fingerprint


def test_half_precision_files_become_float32_on_the_cpu(profile: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(profile.parent / "sam", tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    segmenter: Any = load_suite(profile, device="cpu", overrides={"segmenter.id": str(folder)}).segmenter
    assert {p.dtype for p in segmenter._model.parameters()} == {torch.float32}
    assert segmenter.encode([picture(20, 20)])[0].features.dtype == torch.float32


@pytest.mark.parametrize("role", ["vlm", "detector", "segmenter", "text_image"])
def test_incomplete_weights_are_refused(profile: Path, tmp_path: Path, role: str) -> None:
    names = {"vlm": "vlm", "detector": "owl", "segmenter": "sam", "text_image": "clip"}
    folder = shutil.copytree(profile.parent / names[role], tmp_path / role)
    weights = load_file(folder / "model.safetensors")
    dropped = sorted(weights)[len(weights) // 2]
    save_file({k: v for k, v in weights.items() if k != dropped}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"role '{role}'.* leave 1 tensors unset .*{role}\.id"):
        load_suite(profile, device="cpu", overrides={f"{role}.id": str(folder)})


def test_an_incomplete_part_of_a_pipeline_is_refused(load_diffusers: Any, tmp_path: Path) -> None:
    save_stable_diffusion(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"leave 1 tensors unset .*inpainter\.id"):
        load_diffusers(tmp_path)


def test_a_truncated_file_is_refused(profile: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(profile.parent / "sam", tmp_path / "cut")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"segmenter\.id"):
        load_suite(profile, device="cpu", overrides={"segmenter.id": str(folder)})


def test_missing_weights_are_one_sentence_that_says_what_to_do(profile: Path, tmp_path: Path) -> None:
    cases = {
        str(tmp_path / "nowhere"): ("no weights of the role 'segmenter'", "nowhere", "segmenter.id"),
        "bundled:absent": ("bundled weights", "absent", "segmenter.id"),
        "nobody/nothing": ("hf download nobody/nothing --revision v9", "put the files in a folder", "segmenter.id"),
    }
    for identifier, parts in cases.items():
        overrides = {"segmenter.id": identifier, "segmenter.revision": "v9"}
        with pytest.raises(WeightsError) as caught:
            load_suite(profile, device="cpu", overrides=overrides, offline=True)
        message = str(caught.value)
        assert all(part in message for part in parts), message
        assert "\n" not in message


def test_a_chat_template_is_required(profile: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(profile.parent / "vlm", tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match="no chat template"):
        load_suite(profile, device="cpu", overrides={"vlm.id": str(folder)})


def test_quantised_weights_need_cuda(profile: Path) -> None:
    with pytest.raises(WeightsError, match="bitsandbytes"):
        load_suite(profile, device="cpu", overrides={"vlm.quantize": "int4"})


def test_a_moved_branch_is_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DetectorRole(id="a/b")
    assert weights_identity(weights) == "a/b@main"
    cached = tmp_path / "snapshots" / "abc123" / "config.json"
    monkeypatch.setattr("int_model.models.identity.try_to_load_from_cache", lambda *_, **__: str(cached))
    assert weights_identity(weights) == "a/b@abc123"


def test_large_files_are_told_apart_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("int_model.models.identity._SAMPLE", 16)
    content = np.random.default_rng(0).bytes(64 * 16 + 1)
    file, weights = tmp_path / "model.safetensors", DetectorRole(id=str(tmp_path))
    digests = set()
    for position in (None, 0, len(content) - 1):
        changed = bytearray(content)
        if position is not None:
            changed[position] ^= 255
        file.write_bytes(changed)
        digests.add(weights_identity(weights))
    file.write_bytes(content[:-1])
    digests.add(weights_identity(weights))
    assert len(digests) == 4


def test_a_fingerprint_needs_no_weights(suite: ModelSuite, profile: Path) -> None:
    assert profile_fingerprint(read_profile(profile)) == suite.fingerprint
    assert profile_fingerprint(read_profile("llava")) != profile_fingerprint(read_profile("qwen"))


def test_importing_the_suite_imports_no_torch() -> None:
    code = (
        "import sys; import int_model.models.suite; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
