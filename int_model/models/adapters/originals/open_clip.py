"""Checkpoints of open_clip: OpenAI's, LAION's and other plain ViT models, and BiomedCLIP. The package is not needed.

``id`` is a file of tensors, or a folder or hub repository with ``open_clip_config.json`` beside it. The networks are
transformers' own, so CLIP Surgery runs on them as on any CLIP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from int_model.models.adapters.originals.files import (
    Rules,
    Tensors,
    count,
    in_three,
    network,
    read_tensors,
    renamed,
    told_by_shapes,
    without,
)
from int_model.models.adapters.text_image import HFClip
from int_model.models.profile import OpenClipRole
from int_model.models.weights import Source

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3
_CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
"""Of the published vision towers of this width (ViT-H, -g, -bigG); 64 for the others, and wherever texts are read."""
_BERT_HEAD = 64
_BLOCK: Rules = [
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]
_RULES: Rules = [
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    *_BLOCK,
]
_TIMM_RULES: Rules = [
    (r"^visual\.trunk\.patch_embed\.proj\.weight$", "vision_model.embeddings.patch_embedding.weight"),
    (r"^visual\.trunk\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual\.trunk\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.out_proj."),
    (r"^visual\.trunk\.blocks\.", "vision_model.encoder.layers."),
    (r"^visual\.trunk\.norm\.", "vision_model.post_layernorm."),
    (r"^visual\.head\.proj\.", "visual_projection."),
]
_QKV = tuple(rf"\1.self_attn.{which}_proj.\g<kind>" for which in "qkv")
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
_BERT_UNUSED = ("text.transformer.pooler.", "text.transformer.embeddings.position_ids")


def load(settings: OpenClipRole, source: Source) -> HFClip:
    """Load the model with its tokenizer. Raises ``WeightsError`` that names what is missing or unknown."""
    place, described = _places(source)
    official = without(source.read(lambda _, **__: read_tensors(str(place)), "checkpoint"), _NO_WEIGHTS)
    if "text.token_embedding.weight" in official:  # the package's other way to lay out the same model
        official = {name.removeprefix("text."): tensor for name, tensor in official.items()}
    preprocessing = described.get("preprocess_cfg", {})
    images = SimpleNamespace(
        image_mean=preprocessing.get("mean", _MEAN), image_std=preprocessing.get("std", _STD), resample=_BICUBIC
    )
    if any(name.startswith("visual.trunk.") for name in official):
        own = described.get("model_cfg", {}).get("text_cfg", {}).get("context_length", 256)
        model: Any = told_by_shapes(source, "open_clip", lambda: _with_bert(official, source, int(own)))
        words = source.beside(settings.tokenizer, settings.tokenizer_revision) if settings.tokenizer else source
    else:
        config = told_by_shapes(source, "open_clip", lambda: architecture(official, described, settings.activation))
        model = network(source, CLIPModel, config, converted(official))
        words = source.beside(settings.tokenizer or CLIP_TOKENIZER, settings.tokenizer_revision)
    return HFClip(model, images, words.read(AutoTokenizer.from_pretrained, "tokenizer"), settings)


CLIP_TOKENIZER = "openai/clip-vit-base-patch16"


def _places(source: Source) -> tuple[Path, dict[str, Any]]:
    """The file of tensors, and what the configuration beside it says ({} without one)."""
    if source.is_folder and Path(source.location).is_file():
        return Path(source.location), {}

    def find(name: str) -> Path | None:
        if source.is_folder:
            path = Path(source.location) / name
            return path if path.is_file() else None
        try:
            fetched = hf_hub_download(  # nosec B615 - the revision is the profile's
                source.location, name, revision=source.revision, local_files_only=source.offline
            )
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
        return Path(fetched)

    def look(_: str, **__: Any) -> tuple[Path, dict[str, Any]]:
        tensors = next((path for name in _FILES if (path := find(name)) is not None), None)
        if tensors is None:
            raise OSError(f"there is none of {', '.join(_FILES)}")
        config = find(_CONFIG)
        return tensors, json.loads(config.read_text("utf-8")) if config is not None else {}

    found: tuple[Path, dict[str, Any]] = source.read(look, "checkpoint")
    return found


def converted(official: Mapping[str, Tensor]) -> Tensors:
    """A plain ViT model's tensors under the names of transformers' ``CLIPModel``."""
    pattern = r"^((?:visual\.)?transformer\.resblocks\.\d+)\.attn\.in_proj_(?P<kind>weight|bias)$"
    found = renamed(in_three(official, pattern, _QKV), _RULES)  # type: ignore[arg-type]
    for name in ("visual_projection.weight", "text_projection.weight"):
        if name in found:  # the package multiplies from the left
            found[name] = found[name].T.contiguous()
    if "logit_scale" in found:
        found["logit_scale"] = found["logit_scale"].reshape(())
    return found


def architecture(official: Mapping[str, Tensor], described: Mapping[str, Any], activation: str) -> CLIPConfig:
    """The configuration that shapes and the description tell. Raises ``KeyError`` with the first name not there."""
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    model = described.get("model_cfg", {})
    if activation == "auto":
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    width, _, patch, _ = shapes["visual.conv1.weight"]
    tokens = shapes["visual.positional_embedding"][0] - 1
    joint = shapes["visual.proj"][1]
    shapes["visual.class_embedding"]
    head = int(model.get("vision_cfg", {}).get("head_width", _HEAD_WIDTHS.get(width, 64)))
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
        num_attention_heads=width // head,
        image_size=round(tokens**0.5) * patch,
        patch_size=patch,
        hidden_act=activation,
        projection_dim=joint,
    )
    words, wide = shapes["token_embedding.weight"]
    text = CLIPTextConfig(
        vocab_size=words,
        hidden_size=wide,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=count(shapes, r"transformer\.resblocks\.(\d+)\."),
        num_attention_heads=int(model.get("text_cfg", {}).get("heads", wide // 64)),
        max_position_embeddings=shapes["positional_embedding"][0],
        hidden_act=activation,
        projection_dim=joint,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=joint)


# ------------------------------------------------------------------ BiomedCLIP


class ClipWithBert(nn.Module):
    """A ViT of timm and a BERT, joined as transformers' ``CLIPModel`` is: what ``HFClip`` asks of a model."""

    def __init__(self, vision: Any, bert: Any, projection: nn.Module, logit_scale: Tensor, length: int) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = vision.vision_model, vision.visual_projection
        self.text_model, self.text_projection = bert, projection
        self.logit_scale = nn.Parameter(logit_scale, requires_grad=False)
        text = SimpleNamespace(max_position_embeddings=length, eos_token_id=2)  # 2: texts need no end token
        self.config = SimpleNamespace(
            vision_config=vision.config, text_config=text, projection_dim=vision.config.projection_dim
        )

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.visual_projection.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.visual_projection.weight.dtype

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, D]``, not normalised."""
        return self.visual_projection(self.vision_model(pixel_values).pooler_output)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[B, D]``, not normalised: of the first token."""
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.text_projection(hidden[:, 0])


def _with_bert(official: Mapping[str, Tensor], source: Source, length: int) -> ClipWithBert:
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    projection = [official["text.proj.0.weight"], official["text.proj.2.weight"]]
    scale, bias = official["logit_scale"].reshape(()), official["visual.trunk.patch_embed.proj.bias"]
    position, first = official["visual.trunk.pos_embed"][0], official["visual.trunk.cls_token"].flatten()
    width, _, patch, _ = shapes["visual.trunk.patch_embed.proj.weight"]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes["visual.trunk.blocks.0.mlp.fc1.weight"][0],
        num_hidden_layers=count(shapes, r"visual\.trunk\.blocks\.(\d+)\."),
        num_attention_heads=width // 64,
        image_size=round((len(position) - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        projection_dim=shapes["visual.head.proj.weight"][0],
    )
    used = {"text.proj.0.weight", "text.proj.2.weight", "logit_scale", "visual.trunk.patch_embed.proj.bias"}
    used |= {"visual.trunk.pos_embed", "visual.trunk.cls_token"}
    pattern = r"^(visual\.trunk\.blocks\.\d+)\.attn\.qkv\.(?P<kind>weight|bias)$"
    rest = {name: tensor for name, tensor in official.items() if name not in used}
    texts = {name: rest.pop(name) for name in list(rest) if name.startswith("text.transformer.")}
    tensors = renamed(in_three(rest, pattern, _QKV), _TIMM_RULES)  # type: ignore[arg-type]
    # The patches' bias is added to each of them, as their positions are; before the blocks nothing is normalised.
    tensors["vision_model.embeddings.position_embedding.weight"] = torch.cat([position[:1], position[1:] + bias])
    tensors["vision_model.embeddings.class_embedding"] = first
    tensors["vision_model.pre_layrnorm.weight"], tensors["vision_model.pre_layrnorm.bias"] = (
        torch.ones(width),
        torch.zeros(width),
    )
    vision = network(source, CLIPVisionModelWithProjection, config, tensors)
    vision.vision_model.pre_layrnorm = nn.Identity()
    mlp = nn.Sequential(*(nn.Linear(matrix.shape[1], matrix.shape[0], bias=False) for matrix in projection))
    mlp.load_state_dict({f"{place}.weight": matrix for place, matrix in enumerate(projection)})
    mlp.insert(1, nn.GELU())
    bert = network(source, BertModel, _bert_config(shapes), _bert_tensors(texts), add_pooling_layer=False)
    joined = ClipWithBert(vision, bert, mlp.to(source.device, source.dtype), scale.clone().float(), length)
    return joined.eval().requires_grad_(requires_grad=False)


def _bert_config(shapes: Mapping[str, tuple[int, ...]]) -> BertConfig:
    words, hidden = shapes["text.transformer.embeddings.word_embeddings.weight"]
    return BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=shapes["text.transformer.encoder.layer.0.intermediate.dense.weight"][0],
        num_hidden_layers=count(shapes, r"text\.transformer\.encoder\.layer\.(\d+)\."),
        num_attention_heads=hidden // _BERT_HEAD,
        max_position_embeddings=shapes["text.transformer.embeddings.position_embeddings.weight"][0],
    )


def _bert_tensors(texts: Tensors) -> Tensors:
    """BERT's under its own names; its pooler is never asked."""
    return {name.removeprefix("text.transformer."): t for name, t in without(texts, _BERT_UNUSED).items()}
