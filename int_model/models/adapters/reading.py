"""What a causal vision-language model has read: a prompt that goes on from there costs only what is new."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from int_model.models.adapters.vlm_inputs import VlmInputs


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A batch of B rows that a model has read; L columns, of which a row uses those where its mask is 1.

    Attributes:
        cache: keys and values of the L columns. ``Reader`` appends to it in place.
        mask: ``[B, L]``, 1 where the column holds a token of the row.
        logits: of the next token, ``[B, V]``.
        offset: how far the position after a row is from the number of its tokens, ``[B, 1]``; None where it is not.
            Models with image grids (Qwen-VL) count an image's tokens in two dimensions.
    """

    cache: DynamicCache
    mask: Tensor
    logits: Tensor
    offset: Tensor | None

    def without_last(self, counts: Sequence[int]) -> Read:
        """The rows without their last ``counts[i]`` tokens; ``logits`` are then no longer theirs."""
        mask = self.mask.clone()
        left = mask.long().sum(dim=1, keepdim=True) - torch.tensor(counts, device=mask.device)[:, None]
        mask[mask.long().cumsum(dim=1) > left] = 0
        return Read(self.cache, mask, self.logits, self.offset)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The beginning of one row: what ``Reader.join`` makes a batch of.

    Attributes:
        layers: per layer keys and values, ``[heads, P, width]``.
        offset: as in ``Read``, ``[1]`` or None.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    offset: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


class Reader:
    """Feeds a model row by row, on caches that it keeps.

    Args:
        model: a ``...ForConditionalGeneration`` of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        parameters = inspect.signature(type(model).forward).parameters
        self._last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def prefill(self, inputs: VlmInputs) -> Read | None:
        """Read a batch of prompts with their images.

        None for models whose cache cannot be gone on from at any place (sliding windows, recurrent layers).
        """
        out = self._model(**with_positions(inputs), use_cache=True, **self._last)
        offset = self._position_offset(inputs, out)
        if not _is_plain(out.past_key_values) or (has_grids(inputs) and offset is None):
            return None
        if offset is not None:
            offset = offset.reshape(-1, 1).to(inputs.mask.device)
        return Read(out.past_key_values, inputs.mask, out.logits[:, -1], offset)

    def go_on(self, read: Read, texts: Sequence[Sequence[int]]) -> Read:
        """Read one text more per row: token ids, at least one each."""
        width = max(len(text) for text in texts)
        device = read.mask.device
        ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts], device=device)
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
        logits = self.feed(read, ids, mask, **self._last)
        return Read(read.cache, torch.cat([read.mask, mask.to(read.mask)], dim=1), logits[:, -1], read.offset)

    def feed(self, read: Read, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """Logits of the tokens ``ids [B, T]`` after what was read; ``mask`` is 0 where there is no token.

        They are appended to the cache; the caller makes the mask that goes with it.
        """
        whole = torch.cat([read.mask, mask.to(read.mask)], dim=1)
        positions = (whole.long().cumsum(dim=1) - 1).clamp(min=0)[:, read.mask.shape[1] :]
        if read.offset is not None:
            positions = (positions + read.offset).expand(3, -1, -1)
        out = self._model(
            input_ids=ids,
            attention_mask=whole,
            position_ids=positions,
            past_key_values=read.cache,
            use_cache=True,
            **options,
        )
        return out.logits

    @staticmethod
    def rows(read: Read, index: Tensor) -> Read:
        """Some rows (repetitions allowed) with a cache of their own; the old one is left as it is."""
        copy = DynamicCache()
        for number, layer in enumerate(read.cache.layers):
            copy.update(layer.keys.index_select(0, index), layer.values.index_select(0, index), number)
        offset = None if read.offset is None else read.offset[index]
        return Read(copy, read.mask[index], read.logits[index], offset)

    @staticmethod
    def size(read: Read, tokens: int) -> int:
        """Bytes that ``keep`` will hold."""
        tensors = [tensor for layer in read.cache.layers for tensor in (layer.keys, layer.values)]
        return sum(t.shape[1] * t.shape[3] * t.element_size() for t in tensors) * tokens

    @staticmethod
    def keep(read: Read, row: int, tokens: int) -> Kept:
        """A copy of the first ``tokens`` of a row, which must not have lost any in between."""
        first = int(read.mask[row].argmax())
        span = slice(first, first + tokens)
        layers = tuple(
            (layer.keys[row, :, span].clone(), layer.values[row, :, span].clone()) for layer in read.cache.layers
        )
        return Kept(layers, None if read.offset is None else read.offset[row].clone())

    def join(self, kept: Sequence[Kept], texts: Sequence[Sequence[int]]) -> Read:
        """A batch of kept beginnings, gone on with one text each."""
        lengths = [part.layers[0][0].shape[1] for part in kept]
        width = max(lengths)
        cache = DynamicCache()
        for number in range(len(kept[0].layers)):
            keys, values = (
                torch.stack([_padded(part.layers[number][which], width) for part in kept]) for which in (0, 1)
            )
            cache.update(keys, values, number)
        device = kept[0].layers[0][0].device
        mask = torch.tensor([[0] * (width - length) + [1] * length for length in lengths], device=device)
        offsets = [part.offset for part in kept if part.offset is not None]
        offset = torch.stack(offsets) if offsets else None
        return self.go_on(Read(cache, mask, torch.empty(0, device=device), offset), texts)

    def _position_offset(self, inputs: VlmInputs, out: Any) -> Tensor | None:
        """See ``Read.offset``. Depending on the version of transformers it is in the output or on the model."""
        if not has_grids(inputs):
            return None
        offset = getattr(out, "rope_deltas", None)
        return getattr(self._model.model, "rope_deltas", None) if offset is None else offset


def _padded(part: Tensor, width: int) -> Tensor:
    """``[heads, P, D]`` with zeros in front, ``[heads, width, D]``."""
    return torch.nn.functional.pad(part, (0, 0, width - part.shape[1], 0))


def with_positions(inputs: VlmInputs) -> dict[str, Tensor]:
    """The batch with its positions: left padding must not shift them; models with image grids compute their own."""
    if has_grids(inputs):
        return inputs.tensors
    positions = (inputs.mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return {**inputs.tensors, "position_ids": positions}


def has_grids(inputs: VlmInputs) -> bool:
    """Whether the model counts an image's tokens in two dimensions (Qwen-VL)."""
    return "image_grid_thw" in inputs.tensors


def _is_plain(cache: object) -> bool:
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
