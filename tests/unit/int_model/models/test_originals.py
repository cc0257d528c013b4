"""Checkpoints as the original packages publish them: names, faults, and equality where the packages are installed.

The names and shapes in ``original_names.json`` are those that small models of the packages have; where a package is
installed they are held against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.originals import grounding_dino, open_clip, sam2
from benchmarks.originals.pictures import PROMPTS
from benchmarks.real.build import bert_tokenizer, clip_tokenizer
from int_model.learning.applied import sam_of
from int_model.models.adapters.originals import sam2 as sam2_files
from int_model.models.profile import read_profile
from int_model.models.protocols import Detector, Segmenter, TextImage, TextTokens
from int_model.models.suite import load_suite
from int_model.models.weights import WeightsError
from tests.unit.int_model.models.tiny import picture

NAMES: dict[str, dict[str, list[int]]] = json.loads((Path(__file__).parent / "original_names.json").read_text())
IMAGE = picture(48, 90, 1)


@pytest.fixture(autouse=True)
def _small_sam2_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, variant in sam2.SMALL.items():
        monkeypatch.setitem(sam2_files.VARIANTS, key, variant)


def tensors(package: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {name: 0.1 * torch.randn(shape, generator=random) for name, shape in NAMES[package].items()}


class Case:
    """A package's checkpoint on the disk and our adapter for it."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder = package, folder
        self.path = folder / "weights.pth"
        if package == "groundingdino":
            bert_tokenizer().save_pretrained(folder / "vocabulary")
        if package in ("open_clip", "biomedclip"):
            tokenizer = clip_tokenizer() if package == "open_clip" else bert_tokenizer()
            tokenizer.save_pretrained(folder)
            self.path = folder / "open_clip_pytorch_model.bin"
        self.write(tensors(package))

    def write(self, content: Any) -> None:
        torch.save(content, self.path)

    def load(self) -> Any:
        if self.package == "sam2":
            return sam2.load(self.path)
        if self.package == "groundingdino":
            return grounding_dino.load(self.path, self.folder / "vocabulary")
        return open_clip.load(self.folder, tokenizer=str(self.folder))


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Case]:
    return lambda package: Case(package, tmp_path)


def test_sam2_encodes_and_decodes(case: Callable[[str], Case]) -> None:
    segmenter = case("sam2").load()
    assert isinstance(segmenter, Segmenter)
    [embedding] = segmenter.encode([IMAGE])
    assert embedding.nbytes > embedding.features.numel() * 4
    proposals = segmenter.decode(embedding, PROMPTS)
    best = segmenter.decode_best(embedding, PROMPTS)
    for proposal, chosen in zip(proposals, best, strict=True):
        assert proposal.logits.shape == (3, 48, 90)
        assert np.isfinite(proposal.logits).all()
        np.testing.assert_allclose(chosen.logits, proposal.chosen.logits, atol=1e-5)
    together = segmenter.decode(segmenter.encode([picture(64, 64, 2), IMAGE])[1], PROMPTS[:1])[0]
    np.testing.assert_allclose(together.logits, proposals[0].logits, atol=1e-5)
    assert segmenter.decode(embedding, PROMPTS[:1], multimask=False)[0].logits.shape == (1, 48, 90)


def test_learning_on_sam2_is_refused_with_what_to_choose_instead(case: Callable[[str], Case]) -> None:
    with pytest.raises(ValueError, match=r"segmenter is SAM 2, .* choose a profile with a SAM of the first"):
        sam_of(case("sam2").load())


def test_a_folder_of_sam2_is_known_by_its_configuration(case: Callable[[str], Case], profile: Path) -> None:
    own = case("sam2")
    segmenter = own.load()
    folder = own.folder / "transformers"
    segmenter.model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.485, 0.456, 0.406], "image_std": null}')
    suite = load_suite(profile, device="cpu", overrides={"segmenter.id": str(folder)}, offline=True)
    [ours], [theirs] = suite.segmenter.encode([IMAGE]), segmenter.encode([IMAGE])
    first, second = suite.segmenter.decode(ours, PROMPTS), segmenter.decode(theirs, PROMPTS)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)


def test_grounding_dino_finds_boxes(case: Callable[[str], Case]) -> None:
    detector = case("groundingdino").load()
    assert isinstance(detector, Detector)
    [found] = detector.detect([picture(96, 128, 2)], ["gecko"], box_threshold=0.0, text_threshold=0.0)
    assert 0 < len(found) <= 12
    config = detector.model.config
    assert (config.backbone_config.depths, config.backbone_config.window_size) == ([2, 1, 1, 1], 4)
    assert (config.encoder_layers, config.decoder_layers, config.num_queries) == (2, 2, 12)


@pytest.mark.parametrize("package", ["open_clip", "biomedclip"])
def test_open_clip_embeds_images_patches_and_texts(package: str, case: Callable[[str], Case]) -> None:
    clip = case(package).load()
    assert isinstance(clip, TextImage)
    assert isinstance(clip, TextTokens)
    images, patches, texts = clip.embed_images([IMAGE]), clip.embed_patches([IMAGE]), clip.embed_texts(["a moth"])
    assert images.shape == texts.shape == (1, 16)
    assert patches.shape[0] == 1
    assert patches.shape[-1] == 16
    for features in (images, texts, patches):
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    assert not np.allclose(texts, clip.embed_texts(["a gecko"]))


LOST = {
    "sam2": "sam_mask_decoder.iou_prediction_head.layers.1.bias",
    "groundingdino": "transformer.encoder.fusion_layers.1.gamma_v",
    "open_clip": "visual.transformer.resblocks.1.mlp.c_proj.bias",
    "biomedclip": "visual.trunk.blocks.1.mlp.fc2.bias",
}
NAMED = {
    "sam2": r"mask_decoder\.iou_prediction_head\.layers\.0\.bias",
    "groundingdino": r"encoder\.layers\.1\.fusion_layer\.vision_param",
    "open_clip": r"vision_model\.encoder\.layers\.1\.mlp\.fc2\.bias",
    "biomedclip": r"vision_model\.encoder\.layers\.1\.mlp\.fc2\.bias",
}


@pytest.mark.parametrize("package", sorted(LOST))
def test_missing_and_unknown_tensors_are_named(package: str, case: Callable[[str], Case]) -> None:
    own = case(package)
    whole = tensors(package)
    own.write({name: tensor for name, tensor in whole.items() if name != LOST[package]})
    with pytest.raises(WeightsError, match=NAMED[package]):
        own.load()
    own.write({**whole, "another.network": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"another\.network"):
        own.load()
    own.write({"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match="is not a checkpoint of"):
        own.load()
    own.path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        own.load()


def test_an_encoder_that_was_never_published_is_said(
    case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = case("sam2")
    monkeypatch.setattr(sam2_files, "VARIANTS", {})
    with pytest.raises(WeightsError, match="5 blocks, 8 wide, which none of the published SAM 2 has"):
        own.load()


def test_a_profile_takes_them_by_kind(case: Callable[[str], Case], profile: Path) -> None:
    own = case("groundingdino")
    over = {"detector.kind": "groundingdino", "detector.id": str(own.path)}
    over |= {"detector.tokenizer": str(own.folder / "vocabulary")}
    suite = load_suite(profile, device="cpu", overrides=over, offline=True)
    assert suite.detector.detect([IMAGE], ["gecko"], box_threshold=0.99, text_threshold=0.5) == [[]]
    assert read_profile(profile, {"text_image.kind": "open_clip", "text_image.id": "/x"}).text_image.kind == "open_clip"


@pytest.mark.parametrize(
    ("package", "module", "most"),
    [
        ("sam2", sam2, 1e-4),
        ("groundingdino", grounding_dino, 1e-4),
        ("open_clip", open_clip, 1e-5),
    ],
)
def test_answers_equal_the_original_packages(package: str, module: Any, most: float, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"the package {package} is not installed (extra 'reference')")
    torch.manual_seed(0)
    for name, value in module.differences(tmp_path).items():
        assert (value > 1e-3) if "spread" in name else (value < most), (name, value)


def test_the_names_are_those_of_the_packages(tmp_path: Path) -> None:
    pytest.importorskip("sam2", reason="the packages are not installed (extra 'reference')")
    pytest.importorskip("groundingdino", reason="the packages are not installed (extra 'reference')")
    pytest.importorskip("open_clip", reason="the packages are not installed (extra 'reference')")
    models = {
        "sam2": sam2.original(),
        "groundingdino": grounding_dino.original(tmp_path / "words"),
        "open_clip": open_clip.plain(len(clip_tokenizer())),
        "biomedclip": open_clip.biomedical(len(bert_tokenizer())),
    }
    for package, model in models.items():
        assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == NAMES[package]
