from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from int_model.models.adapters.text_image import HFClip
from int_model.models.profile import TextImageRole
from int_model.models.protocols import Normalise
from int_model.models.suite import ModelSuite
from tests.unit.int_model.models.tiny import picture

IMAGES = [picture(40, 56, 1), picture(64, 24, 2), picture(1, 1)]
TEXTS = [
    "moth",
    "",
    "a photo of the hidden animal, a very long description that does not fit into the text tower at all",
]


@pytest.fixture(scope="module")
def folder(profile: Path) -> Path:
    return profile.parent / "clip"


@pytest.fixture(scope="module")
def model(folder: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()


def adapter(folder: Path, model: CLIPModel, **options: int) -> HFClip:
    processor, tokenizer = CLIPImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return HFClip(model, processor, tokenizer, TextImageRole(id=str(folder), **options))


def pixels(folder: Path, image: np.ndarray) -> torch.Tensor:
    """The checkpoint's own processor, told to squash in the place of cropping."""
    processor = CLIPImageProcessor.from_pretrained(folder)
    size = {"height": 32, "width": 32}
    pil = PIL.Image.fromarray(image)
    return processor(images=pil, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"]


def test_images_equal_the_models_own_features(suite: ModelSuite, folder: Path, model: CLIPModel) -> None:
    rows = suite.text_image.embed_images(IMAGES)
    assert rows.dtype == np.float32
    for image, row in zip(IMAGES, rows, strict=True):
        with torch.no_grad():
            expected = model.get_image_features(pixel_values=pixels(folder, image)).pooler_output[0].numpy()
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-5)


def test_what_a_centre_crop_would_hide_counts(suite: ModelSuite) -> None:
    wide = picture(32, 96, 3)
    changed = wide.copy()
    changed[:, :16] = 0
    one, other = suite.text_image.embed_images([wide, changed])
    assert not np.allclose(one, other, atol=1e-3)


def test_texts_equal_the_models_own_features(suite: ModelSuite, folder: Path, model: CLIPModel) -> None:
    rows = suite.text_image.embed_texts(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            expected = model.get_text_features(**ids).pooler_output[0].numpy()
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-5)
    assert suite.text_image.logit_scale == pytest.approx(math.exp(model.logit_scale.item()))


def test_a_text_is_embedded_once(folder: Path, model: CLIPModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    features = model.get_text_features

    def counting(**inputs: torch.Tensor) -> object:
        asked.append(len(inputs["input_ids"]))
        return features(**inputs)

    monkeypatch.setattr(model, "get_text_features", counting)
    clip = adapter(folder, model, text_cache=2)
    first = clip.embed_texts(["moth", "bark", "moth"])
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(clip.embed_texts(["bark", "moth"]), first[[1, 0]])
    assert sum(asked) == 2
    clip.embed_texts(["tree"])
    clip.embed_texts(["bark"])
    assert sum(asked) == 4, "the cache is bounded: bark had to be embedded again"


def slow_surgery(model: CLIPModel, image: torch.Tensor, layers: int, axis: int) -> np.ndarray:
    """CLIP Surgery with k-k attention in float64 numpy, one head and one token at a time."""
    vision = model.vision_model
    state = {name: value.double().numpy() for name, value in vision.state_dict().items()}
    heads, depth = model.config.vision_config.num_attention_heads, model.config.vision_config.num_hidden_layers

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.config.vision_config.layer_norm_eps)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attend(x: np.ndarray, block: str, queries: str) -> np.ndarray:
        q, k, v = (linear(x, f"{block}.self_attn.{part}_proj") for part in (queries, "k", "v"))
        width = x.shape[1] // heads
        out = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for token in range(len(x)):
                logits = k[:, part] @ q[token, part] / math.sqrt(width)
                weights = np.exp(logits - logits.max())
                out[token, part] = weights / weights.sum() @ v[:, part]
        return linear(out, f"{block}.self_attn.out_proj")

    def feed_forward(x: np.ndarray, block: str) -> np.ndarray:
        hidden = linear(x, f"{block}.mlp.fc1")
        return linear(hidden / (1 + np.exp(-1.702 * hidden)), f"{block}.mlp.fc2")  # CLIP's quick GELU

    with torch.no_grad():
        original = norm(vision.embeddings(image)[0].double().numpy(), "pre_layrnorm")
    second = None
    for index in range(depth):
        block = f"encoder.layers.{index}"
        normed = norm(original, f"{block}.layer_norm1")
        if index >= depth - layers:
            second = (original if second is None else second) + attend(normed, block, "k")
        original = original + attend(normed, block, "q")
        original = original + feed_forward(norm(original, f"{block}.layer_norm2"), block)
    tokens = original if second is None else np.concatenate([original[:1], second[1:]])
    features = norm(tokens, "post_layernorm") @ model.visual_projection.weight.detach().double().numpy().T
    features /= np.linalg.norm(features, axis=axis, keepdims=True)
    return features[1:].reshape(4, 4, -1)


@pytest.mark.parametrize(("normalise", "axis"), [("token", 1), ("channel", 0)])
@pytest.mark.parametrize("layers", [0, 1, 2, 4])
def test_surgery_equals_a_slow_reference(
    folder: Path, model: CLIPModel, layers: int, normalise: Normalise, axis: int
) -> None:
    """Raw features are scaled once: per patch, or per channel over the patches and the class token."""
    ours = adapter(folder, model, surgery_layers=layers).embed_patches(IMAGES[:2], normalise)
    assert ours.shape == (2, 4, 4, 24)
    for image, rows in zip(IMAGES[:2], ours, strict=True):
        np.testing.assert_allclose(rows, slow_surgery(model, pixels(folder, image), layers, axis), atol=2e-4)


def test_surgery_layers_are_clamped_to_the_depth(folder: Path, model: CLIPModel) -> None:
    deepest = adapter(folder, model, surgery_layers=4).embed_patches(IMAGES)
    assert np.array_equal(adapter(folder, model, surgery_layers=9).embed_patches(IMAGES), deepest)
    assert not np.allclose(adapter(folder, model, surgery_layers=1).embed_patches(IMAGES), deepest, atol=1e-3)


def test_surgery_leaves_the_model_as_it_was(folder: Path, model: CLIPModel) -> None:
    clip = adapter(folder, model)
    before = clip.embed_images(IMAGES)
    clip.embed_patches(IMAGES)
    assert np.array_equal(clip.embed_images(IMAGES), before)


def test_unit_norm_batches_and_empty_lists(folder: Path, model: CLIPModel) -> None:
    one_by_one = adapter(folder, model, max_batch=1)
    clip = adapter(folder, model)
    for name in ("embed_images", "embed_patches"):
        together, alone = getattr(clip, name)(IMAGES), getattr(one_by_one, name)(IMAGES)
        np.testing.assert_allclose(together, alone, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(clip.embed_texts(TEXTS), one_by_one.embed_texts(TEXTS), atol=1e-5)
    assert clip.embed_images([]).shape == (0, 24)
    assert clip.embed_patches([]).shape == (0, 4, 4, 24)
    assert clip.embed_texts([]).shape == (0, 24)


def test_a_tokenizer_without_an_end_token_is_refused(folder: Path, model: CLIPModel) -> None:
    clip = adapter(folder, model)
    clip._tokenizer = lambda texts, **_: {"input_ids": torch.full((len(texts), 3), 7)}
    with pytest.raises(ValueError, match="end token"):
        clip.embed_texts(["moth"])
