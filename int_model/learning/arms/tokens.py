"""Static tokens: one learned vector per label, added to every prompt token. A few hundred parameters, no attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from int_model.learning.sam import Adjust


class StaticTokens(nn.Module):
    """f_P* = f_P + t(label), zero at the start, so that an untrained module changes nothing."""

    def __init__(self, width: int, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.vectors = nn.Parameter(torch.zeros(len(self.labels), width))

    def adjust(self, labels: Sequence[str]) -> Adjust:
        """See ``Trained.adjust``."""
        index = [self.labels.index(label) if label in self.labels else -1 for label in labels]

        def apply(sparse: Tensor, *_: Tensor) -> Tensor:
            own = torch.tensor(index, device=sparse.device)
            vectors = self.vectors[own.clamp(min=0)] * (own >= 0)[:, None]
            return sparse + vectors[:, None]

        return apply

    def penalty(self) -> Tensor | None:
        """None: there is nothing to hold back."""
        return None
