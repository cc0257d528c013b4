"""``HFClip``: CLIP of transformers behind the ``TextImage`` Protocol, with Spatial CLIP patch features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from int_model.core.caches import LruCache
from int_model.core.types import Image, check_image
from int_model.models.adapters.imaging import normalise as normalised
from int_model.models.adapters.imaging import resize
from int_model.models.device import in_batches
from int_model.models.profile import TextImageRole
from int_model.models.protocols import Normalise
from int_model.models.weights import Source


class HFClip:
    """CLIP: images and texts in one space.

    Args:
        model: ``CLIPModel`` in evaluation mode.
        image_processor: its image processor (channel means, deviations, resize filter).
        tokenizer: its tokenizer; it must end every text with the end token, where CLIP reads the text off.
        settings: batch size, number of surgery layers, size of the text cache.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, settings: TextImageRole) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._mean, self._std = image_processor.image_mean, image_processor.image_std
        self._resample = int(image_processor.resample)
        self._side = int(model.config.vision_config.image_size)
        self._texts: LruCache[str, NDArray[np.float32]] = LruCache(settings.text_cache)
        self.logit_scale = float(model.logit_scale.detach().exp())

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        def features(pixels: Tensor) -> Tensor:
            return F.normalize(_pooled(self._model.get_image_features(pixel_values=pixels)).float(), dim=-1)

        return self._embed_all(images, features)

    def embed_patches(self, images: Sequence[Image], normalise: Normalise = "token") -> NDArray[np.float32]:
        grid = self._side // int(self._model.config.vision_config.patch_size)

        def features(pixels: Tensor) -> Tensor:
            tokens = surgery_tokens(self._model.vision_model, pixels, self._settings.surgery_layers)
            raw = self._model.visual_projection(tokens).float()
            scaled = F.normalize(raw, dim=-1 if normalise == "token" else 1)
            return scaled[:, 1:].unflatten(1, (grid, grid))

        return self._embed_all(images, features, shape=(grid, grid))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        known = {text: self._texts.get(text) for text in texts}
        new = [text for text, row in known.items() if row is None]
        with torch.inference_mode():
            rows = in_batches(new, self._settings.max_batch, self._embed_texts)
        for text, row in zip(new, rows, strict=True):
            known[text] = row
            self._texts[text] = row
        return self._stack([known[text] for text in texts])

    def embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """See ``TextTokens.embed_tokens``."""
        with torch.inference_mode():
            return in_batches(list(texts), self._settings.max_batch, self._embed_tokens)

    def _embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = self._on_device(self._tokenize(texts))
        hidden = self._model.text_model(**tokens).last_hidden_state
        rows = F.normalize(self._model.text_projection(hidden).float(), dim=-1).cpu().numpy()
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def _tokenize(self, texts: Sequence[str]) -> Any:
        longest = self._model.config.text_config.max_position_embeddings
        return self._tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")

    def _on_device(self, tokens: Any) -> dict[str, Tensor]:
        return {name: tokens[name].to(self._model.device) for name in ("input_ids", "attention_mask")}

    def _embed_texts(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        config = self._model.config.text_config
        tokens = self._tokenize(texts)
        # With the id 2 (a historical default) transformers reads the largest id instead, so there is nothing to check.
        if config.eos_token_id != 2 and not (tokens["input_ids"] == config.eos_token_id).any(dim=1).all():
            raise ValueError(f"the tokenizer does not end a text with CLIP's end token (id {config.eos_token_id})")
        answer = self._model.get_text_features(**self._on_device(tokens))
        return list(F.normalize(_pooled(answer).float(), dim=-1).cpu().numpy())

    def _embed_all(
        self, images: Sequence[Image], features: Callable[[Tensor], Tensor], shape: tuple[int, ...] = ()
    ) -> NDArray[np.float32]:
        for image in images:
            check_image(image)

        def work(batch: Sequence[Image]) -> list[NDArray[np.float32]]:
            return list(features(self._pixels(batch)).cpu().numpy())

        with torch.inference_mode():
            return self._stack(in_batches(list(images), self._settings.max_batch, work), shape)

    def _stack(self, rows: Sequence[Any], shape: tuple[int, ...] = ()) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, *shape, int(self._model.config.projection_dim)), dtype=np.float32)
        return np.stack(rows)

    def _pixels(self, images: Sequence[Image]) -> Tensor:
        """Images squashed to CLIP's square: its usual centre crop would hide what lies at the border."""
        squares = [
            normalised(resize(image, self._side, self._side, self._resample), self._mean, self._std) for image in images
        ]
        return torch.from_numpy(np.stack(squares)).to(self._model.device, self._model.dtype)


def surgery_tokens(vision: Any, pixels: Tensor, layers: int) -> Tensor:
    """Final tokens ``[B, 1 + N, C]`` of a CLIP vision tower under CLIP Surgery (arXiv 2304.05653), k-k variant.

    In the last ``layers`` blocks a second path runs beside the original one. It starts from the tokens at that depth
    and adds, block by block, only the attention output computed from the original path's tokens with the keys in the
    place of the queries: a patch then gathers from the patches that resemble it. The blocks' feed-forward parts, which
    mix in what belongs to the whole image, stay on the original path. The class token is the original one.

    Args:
        vision: ``CLIPVisionModel``.
        pixels: ``[B, 3, S, S]``.
        layers: length of the second path; clamped to the depth, 0 gives the ordinary last-layer tokens.
    """
    original = vision.pre_layrnorm(vision.embeddings(pixels))
    blocks = list(vision.encoder.layers)
    depth = len(blocks) - min(layers, len(blocks))
    for block in blocks[:depth]:
        original = block(original, None)
    second = original
    for block in blocks[depth:]:
        second = second + _key_key_attention(block.self_attn, block.layer_norm1(original))
        original = block(original, None)
    tokens = torch.cat([original[:, :1], second[:, 1:]], dim=1)
    return vision.post_layernorm(tokens)


def _key_key_attention(attention: Any, hidden: Tensor) -> Tensor:
    """Multi-head self-attention of ``hidden [B, T, C]`` with weights ``softmax(k k^T / sqrt(d))``."""
    heads, width = attention.num_heads, attention.head_dim

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (heads, width)).transpose(1, 2)

    keys, values = split(attention.k_proj(hidden)), split(attention.v_proj(hidden))
    gathered = F.scaled_dot_product_attention(keys, keys, values, scale=width**-0.5)
    return attention.out_proj(gathered.transpose(1, 2).flatten(2))


def _pooled(answer: Any) -> Tensor:
    """Since version 5 transformers wraps the projected embedding in an output object."""
    return answer if isinstance(answer, Tensor) else answer.pooler_output


def load(settings: TextImageRole, source: Source) -> HFClip:
    """Load the model, image processor and tokenizer. Raises ``WeightsError``."""
    image_processor = source.read(AutoImageProcessor.from_pretrained, "image processor")
    tokenizer = source.read(AutoTokenizer.from_pretrained, "tokenizer")
    return HFClip(source.model(CLIPModel), image_processor, tokenizer, settings)
