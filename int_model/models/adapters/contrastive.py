"""Contrastive decoding: what a model says about an image, less what it says about the same image without its object."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from int_model.models.adapters.reading import has_grids, with_positions
from int_model.models.adapters.vlm_inputs import VlmInputs


class ContrastBranch(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """ProMaC's eq. 3 as a logits processor: ``(1 + alpha) logit(y | X) - alpha logit(y | X')``.

    ``generate`` runs the branch of X; this one runs the branch of X' beside it, over the same question and the same
    answer so far, on a cache of its own. Models that count an image's tokens in two dimensions (Qwen-VL) compute their
    positions from the whole input, so for them each step is a full pass.

    Args:
        model: a ``...ForConditionalGeneration`` of transformers.
        inputs: the left-padded batch of the prompts with X', rows as in ``generate``.
        skip: how many of the ids that ``generate`` passes are the prompt (0 where the prompt is embeddings).
        alpha: weight of the contrast, >= 0.
        plausible: tokens whose probability under X is below this part of the likeliest one's are not chosen. Without
            it a token that is absurd under both images wins where it is more absurd under X'.
    """

    def __init__(self, model: Any, inputs: VlmInputs, *, skip: int, alpha: float, plausible: float) -> None:
        self._model = model
        self._inputs = inputs
        self._skip = skip
        self._alpha = alpha
        self._margin = math.log(plausible) if plausible > 0 else -math.inf
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self._cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        other = self._next(input_ids[:, self._skip :]).to(scores)
        contrast = (1 + self._alpha) * scores - self._alpha * other
        return contrast.masked_fill(scores < scores.amax(dim=-1, keepdim=True) + self._margin, -math.inf)

    def _next(self, said: Tensor) -> Tensor:
        """Logits ``[B, V]`` of the next token after the ids ``said [B, T]``."""
        inputs, ones = self._inputs, torch.ones_like(said)
        if has_grids(inputs):
            return self._run({**inputs.extended(said, ones).tensors, "use_cache": False})
        if self._cache is None:
            return self._run({**with_positions(inputs.extended(said, ones) if said.shape[1] else inputs)})
        positions = inputs.mask.long().sum(dim=1, keepdim=True) + said.shape[1] - 1
        return self._run(
            {
                "input_ids": said[:, -1:],
                "attention_mask": torch.cat([inputs.mask, ones.to(inputs.mask)], dim=1),
                "position_ids": positions,
                "past_key_values": self._cache,
            }
        )

    def _run(self, arguments: dict[str, Any]) -> Tensor:
        out = self._model(**{"use_cache": True, **arguments}, **self._last)
        self._cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits
