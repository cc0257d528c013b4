"""From (image, prompt text) pairs to what a vision-language model's ``forward`` and ``generate`` take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from int_model.core.caches import LruCache
from int_model.core.types import Image, check_image
from int_model.models.adapters.imaging import content_key, mean_colour, pad_to_square, shrink, to_pil


@dataclass(frozen=True, slots=True, eq=False)
class VlmInputs:
    """A left-padded batch.

    Attributes:
        tensors: keyword arguments of the model: ``attention_mask [B, L]`` and ``input_ids [B, L]`` with the image
            tensors, or ``inputs_embeds [B, L, D]``.
        embed: turns token ids into embeddings where the batch is made of embeddings, else None.
        embedded: then the token ids ``[B, L]`` that the embeddings stand for.
    """

    tensors: dict[str, Tensor]
    embed: Callable[[Tensor], Tensor] | None = None
    embedded: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """``attention_mask [B, L]``."""
        return self.tensors["attention_mask"]

    @property
    def ids(self) -> Tensor:
        """The token ids ``[B, L]``, an image's placeholder as often as the model sees it."""
        return self.tensors["input_ids"] if self.embedded is None else self.embedded

    @property
    def echoes_prompt(self) -> bool:
        """Whether ``generate`` returns the prompt's ids before the new ones."""
        return self.embed is None

    def extended(self, ids: Tensor, mask: Tensor) -> VlmInputs:
        """The batch with right-padded text ``ids [B, T]`` (``mask`` 1 where real) appended to each row."""
        tensors = dict(self.tensors)
        tensors["attention_mask"] = torch.cat([self.mask, mask.to(self.mask)], dim=1)
        if self.embed is not None:
            tensors["inputs_embeds"] = torch.cat([tensors["inputs_embeds"], self.embed(ids)], dim=1)
        else:
            tensors["input_ids"] = torch.cat([tensors["input_ids"], ids], dim=1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in tensors:
                tensors[name] = torch.cat([tensors[name], torch.zeros_like(ids).to(tensors[name])], dim=1)
        return VlmInputs(tensors, self.embed)


class InputBuilder(Protocol):
    """Builds a batch: one prompt text per image, each with one image placeholder."""

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> VlmInputs: ...


class ImageFitting:
    """Brings an image to what the processor may see: shrunk if too large, padded to a square if asked."""

    def __init__(self, image_processor: Any, *, padded: bool, max_side: int) -> None:
        self._colour = mean_colour(getattr(image_processor, "image_mean", None) or (0.5, 0.5, 0.5))
        self._padded = padded
        self._max_side = max_side

    def __call__(self, image: Image) -> Image:
        check_image(image)
        if self._max_side:
            image = shrink(image, self._max_side)
        return pad_to_square(image, self._colour) if self._padded else image


def text_options(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Tokenizer arguments for a batch of rendered chats."""
    return {"padding": True, "return_tensors": "pt", **start_options(tokenizer, texts)}


def start_options(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """A template that wrote the start token must not get a second one."""
    start = tokenizer.bos_token
    written = bool(start) and all(text.startswith(start) for text in texts)
    return {"add_special_tokens": False} if written else {}


class ProcessorInputs:
    """The processor does everything; images are encoded in each call. Works for every image-text-to-text model."""

    def __init__(self, model: Any, processor: Any, fit: ImageFitting) -> None:
        self._model = model
        self._processor = processor
        self._fit = fit

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> VlmInputs:
        pictures = [[to_pil(self._fit(image))] for image in images]
        options = text_options(self._processor.tokenizer, texts)
        batch = self._processor(images=pictures, text=list(texts), **options)
        dtype = self._model.dtype
        return VlmInputs(
            {
                name: value.to(self._model.device, dtype if value.is_floating_point() else value.dtype)
                for name, value in batch.items()
                if isinstance(value, Tensor)
            }
        )


class ProjectedInputs:
    """For LLaVA: each distinct image is encoded and projected once, and kept in a bounded cache.

    The projected features take the places of the image placeholder's embeddings, as in LLaVA's own forward pass.
    """

    def __init__(self, model: Any, processor: Any, fit: ImageFitting, *, cache_bytes: int) -> None:
        self._model = model
        self._processor = processor
        self._fit = fit
        self._features: LruCache[bytes, Tensor] = LruCache(cache_bytes, lambda t: t.numel() * t.element_size())

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> VlmInputs:
        features = self._encode(images)
        token = self._processor.image_token
        texts = [text.replace(token, token * len(rows)) for text, rows in zip(texts, features, strict=True)]
        tokenizer = self._processor.tokenizer
        batch = tokenizer(texts, **text_options(tokenizer, texts)).to(self._model.device)
        places = batch["input_ids"] == tokenizer.convert_tokens_to_ids(token)
        embeds = self._embed(batch["input_ids"])
        embeds = embeds.masked_scatter(places.unsqueeze(-1), torch.cat(features).to(embeds))
        return VlmInputs(
            {"inputs_embeds": embeds, "attention_mask": batch["attention_mask"]}, self._embed, batch["input_ids"]
        )

    def _embed(self, ids: Tensor) -> Tensor:
        return self._model.get_input_embeddings()(ids)

    def _encode(self, images: Sequence[Image]) -> list[Tensor]:
        keys = [content_key(image) for image in images]
        known = {key: self._features.get(key) for key in keys}
        new = {key: image for key, image in zip(keys, images, strict=True) if known[key] is None}
        if new:
            pictures = [to_pil(self._fit(image)) for image in new.values()]
            pixels = self._processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            answer = self._model.get_image_features(pixel_values=pixels.to(self._model.device, self._model.dtype))
            for key, rows in zip(new, getattr(answer, "pooler_output", answer), strict=True):
                known[key] = rows
                self._features[key] = rows.clone()
        return [rows for key in keys if (rows := known[key]) is not None]
