"""Prompt learning module (PLM, arXiv 2403.09199; A.3): prompt tokens are adjusted by the image before decoding.

Published: prompt self-attention, then prompt-to-image attention, then an MLP, between SAM's frozen prompt encoder and
its frozen decoder. Ours: one block, pre-norm residuals, positions on the keys, a zero-initialised residual to the input
(so that an untrained module changes nothing, to the bit), and one token per label that takes part in the first
attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from int_model.learning.sam import Adjust


class PromptLearning(nn.Module):
    """f_P* = f_P + W_o w(f_P, f_I, label), with W_o = 0 at the start.

    Args:
        width: D, the width of SAM's tokens.
        labels: names of the labels that it knows; a prompt of another label is left as it is.
        heads: attention heads; divides ``width``.
        identity: weight of the penalty on the mean squared change of the tokens.
    """

    def __init__(self, width: int, labels: Sequence[str], *, heads: int = 8, identity: float = 1.0) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self._identity = identity
        self._change: Tensor | None = None
        self.label_tokens = nn.Parameter(torch.randn(len(self.labels), width) * 0.02)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.image_norm = nn.LayerNorm(width)
        self.image_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, sparse: Tensor, features: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Adjusted tokens ``[B, T, D]``; ``labels`` are indices ``[B]``, -1 where the label is unknown."""
        count = sparse.shape[1]
        known = (labels >= 0)[:, None, None]
        own = self.label_tokens[labels.clamp(min=0)][:, None]
        tokens = torch.cat([sparse, own], dim=1)
        normed = self.self_norm(tokens)
        tokens = tokens + self.self_attention(normed, normed, normed, need_weights=False)[0]
        values = features.flatten(2).transpose(1, 2)
        keys = values + positions.flatten(2).transpose(1, 2)
        first = torch.cat([sparse, own], dim=1)
        query = self.image_norm(tokens) + first  # as SAM's own blocks, which add the prompt to the query again
        tokens = tokens + self.image_attention(query, keys, values, need_weights=False)[0]
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        change = torch.where(known, self.out(tokens[:, :count]), torch.zeros_like(sparse))
        self._change = change
        return sparse + change

    def adjust(self, labels: Sequence[str]) -> Adjust:
        """See ``Trained.adjust``."""
        index = [self.labels.index(label) if label in self.labels else -1 for label in labels]

        def apply(sparse: Tensor, features: Tensor, positions: Tensor) -> Tensor:
            return self(sparse, features, positions, torch.tensor(index, device=sparse.device))

        return apply

    def penalty(self) -> Tensor | None:
        """The identity regulariser: the mean squared change of the last tokens, times its weight."""
        if self._change is None or not self._identity:
            return None
        return self._identity * self._change.square().mean()
