"""The package open_clip: a plain ViT model (OpenAI, LAION), and one of timm's ViT and a BERT (BiomedCLIP)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.originals.pictures import enlivened, largest, picture
from benchmarks.real.build import bert_tokenizer, clip_tokenizer
from int_model.models.adapters.originals import open_clip as ours
from int_model.models.profile import OpenClipRole
from int_model.models.weights import Source

SIDE, JOINT = 32, 16
TEXTS = ["a gecko", "a moth on bark"]


def plain(words: int, seed: int = 3) -> Any:
    """A small plain model, random. Raises ``ImportError`` where the package is not installed."""
    from open_clip.model import CLIP

    vision = {"image_size": SIDE, "layers": 3, "width": 128, "patch_size": 8}
    text = {"context_length": 24, "vocab_size": words, "width": 64, "heads": 1, "layers": 2}
    return enlivened(CLIP(JOINT, vision, text), seed, 0.15)


def biomedical(words: int, seed: int = 4) -> Any:
    """A small model built as BiomedCLIP is, random: its two towers as ``visual`` and ``text``."""
    import timm
    from open_clip.hf_model import HFTextEncoder
    from open_clip.timm_model import TimmModel
    from transformers import BertConfig

    bert = BertConfig(
        vocab_size=words, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1
    )
    small = partial(timm.create_model, embed_dim=64, depth=3, num_heads=1, img_size=SIDE)
    with mock.patch.object(timm, "create_model", small):
        visual = TimmModel("vit_base_patch16_224", JOINT, image_size=SIDE, pool="", proj="linear")
    model = torch.nn.Module()
    model.visual = visual
    model.text = HFTextEncoder("", JOINT, config=bert, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp")
    model.logit_scale = torch.nn.Parameter(torch.tensor(4.0))
    return enlivened(model, seed, 0.15)


def load(path: Path, **options: Any) -> Any:
    """Our adapter with the folder's or file's weights."""
    settings = OpenClipRole(id=str(path), **options)
    return ours.load(settings, Source.of("text_image", settings, device=torch.device("cpu"), offline=True))


def saved(model: Any, folder: Path, tokenizer: Any) -> Path:
    """The model in a folder as open_clip publishes one, its tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": JOINT, "text_cfg": {}}}))
    tokenizer.save_pretrained(folder)
    return folder


def differences(folder: Path) -> dict[str, float]:
    """The largest differences of normalised image and text features, for both kinds."""
    found: dict[str, float] = {}
    tokenizers = {"plain": clip_tokenizer(), "biomedical": bert_tokenizer()}
    makers = {"plain": plain, "biomedical": biomedical}
    for kind, tokenizer in tokenizers.items():
        model = makers[kind](len(tokenizer))
        place = saved(model, folder / kind, tokenizer)
        clip = load(place, tokenizer=str(place))
        pixels = clip._pixels([picture(48, 90, 1), picture(64, 64, 2)])
        ids = tokenizer(TEXTS, padding="max_length", max_length=24, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            if kind == "plain":
                images, texts = model.encode_image(pixels, normalize=True), _plain_texts(model, tokenizer)
            else:
                unit = torch.nn.functional.normalize
                images, texts = unit(model.visual(pixels), dim=-1), unit(model.text(ids), dim=-1)
        mine = clip.embed_images([picture(48, 90, 1), picture(64, 64, 2)]), clip.embed_texts(TEXTS)
        found[f"{kind}: images"] = largest((mine[0], images.numpy()))
        found[f"{kind}: texts"] = largest((mine[1], texts.numpy()))
        found[f"{kind}: spread"] = float(np.std(images.numpy() - images.numpy().mean(axis=0)))
        assert clip.embed_patches([picture(48, 90, 1)]).shape[-1] == JOINT  # noqa: S101 - CLIP Surgery runs on it
    return found


def _plain_texts(model: Any, tokenizer: Any) -> torch.Tensor:
    """open_clip fills its texts up with zeros, and reads them off at the token of the highest id."""
    rows = torch.zeros((len(TEXTS), 24), dtype=torch.long)
    for row, text in zip(rows, TEXTS, strict=True):
        ids = tokenizer(text)["input_ids"]
        row[: len(ids)] = torch.tensor(ids)
    return model.encode_text(rows, normalize=True)
