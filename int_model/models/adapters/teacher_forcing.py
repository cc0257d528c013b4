"""Next-token logits along given answers, many answers to one prompt at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from int_model.models.adapters.vlm_inputs import VlmInputs
from int_model.models.device import in_batches

R = TypeVar("R")
Answer = tuple[int, ...]
Pick = Callable[[Tensor, Tensor], R]


class TeacherForcing:
    """Runs a causal vision-language model over prompts and their answers.

    With ``share_prefix`` the prompts (image and question) are prefilled once and the answers run as a batch on copies
    of the prompts' rows of the key-value cache; otherwise, or for models whose cache is not a plain one (sliding
    windows, recurrent layers), every (prompt, answer) pair is one full forward pass.

    Args:
        model: a ``...ForConditionalGeneration`` of transformers.
        share_prefix: see above.
        max_rows: most (prompt, answer) rows in one pass.
    """

    def __init__(self, model: Any, *, share_prefix: bool, max_rows: int) -> None:
        self._model = model
        self._share = share_prefix
        self._max_rows = max_rows
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters

    def run(
        self, build: Callable[[Sequence[int]], VlmInputs], answers: Sequence[Sequence[Answer]], pick: Pick[R]
    ) -> list[list[R]]:
        """``pick(logits [T, V], ids [T])`` for each answer, nested as ``answers``.

        Args:
            build: makes the left-padded batch of the prompts with the given indices (repetitions allowed).
            answers: for each prompt, its answers as token ids.
            pick: reduces one answer's logits, on the model's device, before the next ones are computed.
        """
        rows = [(i, answer) for i, row in enumerate(answers) for answer in row]
        done = self._shared(build, len(answers), rows, pick) if self._share else None
        if done is None:
            self._share = False
            done = in_batches(rows, self._max_rows, lambda batch: self._full(build, batch, pick))
        results = iter(done)
        return [[next(results) for _ in row] for row in answers]

    def _shared(
        self, build: Callable[[Sequence[int]], VlmInputs], count: int, rows: Sequence[tuple[int, Answer]], pick: Pick[R]
    ) -> list[R] | None:
        inputs = build(range(count))
        options = {"logits_to_keep": 1} if self._keeps_last else {}
        out = self._model(**with_positions(inputs), use_cache=True, **options)
        if not _is_plain(out.past_key_values) or (has_grids(inputs) and self._position_offset(inputs, out) is None):
            return None
        first = out.logits[:, -1]
        lengths = inputs.mask.sum(dim=1)
        delta = self._position_offset(inputs, out)
        start = lengths if delta is None else lengths + delta.reshape(-1).to(lengths)

        def continued(batch: Sequence[tuple[int, Answer]]) -> list[R]:
            index = torch.tensor([i for i, _ in batch], device=first.device)
            ids, mask = _right_padded([answer for _, answer in batch], first.device)
            logits = first[index][:, None]
            if ids.shape[1] > 1:
                positions = start[index][:, None] + torch.arange(ids.shape[1] - 1, device=first.device)
                more = self._model(
                    input_ids=ids[:, :-1],
                    attention_mask=torch.cat([inputs.mask[index], mask[:, :-1].to(inputs.mask)], dim=1),
                    position_ids=positions if delta is None else positions.expand(3, -1, -1),
                    past_key_values=_rows_of(out.past_key_values, index),
                    use_cache=True,
                )
                logits = torch.cat([logits, more.logits], dim=1)
            return [pick(logits[row, : len(answer)], ids[row, : len(answer)]) for row, (_, answer) in enumerate(batch)]

        return in_batches(rows, self._max_rows, continued)

    def _full(
        self, build: Callable[[Sequence[int]], VlmInputs], rows: Sequence[tuple[int, Answer]], pick: Pick[R]
    ) -> list[R]:
        prompts = build([i for i, _ in rows])
        ids, mask = _right_padded([answer for _, answer in rows], prompts.mask.device)
        logits = self._model(**with_positions(prompts.extended(ids, mask)), use_cache=False).logits
        before = prompts.mask.shape[1] - 1
        return [
            pick(logits[row, before : before + len(answer)], ids[row, : len(answer)])
            for row, (_, answer) in enumerate(rows)
        ]

    def _position_offset(self, inputs: VlmInputs, out: Any) -> Tensor | None:
        """How far the position after each prompt is from the prompt's length, ``[B, 1]``; None if it is not.

        Models with image grids (Qwen-VL) count an image's tokens in two dimensions. Depending on the version of
        transformers the offset is in the output or on the model.
        """
        if not has_grids(inputs):
            return None
        offset = getattr(out, "rope_deltas", None)
        return getattr(self._model.model, "rope_deltas", None) if offset is None else offset


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


def _rows_of(cache: Any, index: Tensor) -> DynamicCache:
    """A new cache with the given rows (repetitions allowed); the old one is left as it is."""
    copy = DynamicCache()
    for number, layer in enumerate(cache.layers):
        copy.update(layer.keys.index_select(0, index), layer.values.index_select(0, index), number)
    return copy


def _right_padded(answers: Sequence[Answer], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, T]`` filled up with 0, and their mask."""
    width = max(len(answer) for answer in answers)
    ids = torch.zeros((len(answers), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer)
        mask[row, : len(answer)] = 1
    return ids.to(device), mask.to(device)
