"""Points to masks through the frozen segmenter, so that a loss on the mask reaches coordinates and confidences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from int_model.learning.ppt.gallery import Gallery
from int_model.learning.sam import TrainableSam


def soft_tokens(sam: TrainableSam, square: Tensor, share: Tensor, *, negatives: bool = True) -> Tensor:
    """Prompt tokens ``[B, N + 1, D]``: ``PE(xy) + p e_pos + (1 - p) e_neg``, then the padding token (spec B.2).

    With p of 1 or 0 these are the segmenter's own tokens of positive and negative points.

    Args:
        sam: the frozen segmenter.
        square: points in pixels of its square, ``[B, N, 2]``.
        share: p, ``[B, N]`` in [0, 1].
        negatives: False: what is not positive counts as no point at all instead of as a negative one.
    """
    encoder: Any = sam.prompt_encoder
    places = encoder.shared_embedding(square[:, None] + 0.5, (sam.side, sam.side))[:, 0]
    positive = places + encoder.point_embed[1].weight
    other = places + encoder.point_embed[0].weight if negatives else encoder.not_a_point_embed.weight.expand_as(places)
    tokens = share[..., None] * positive + (1 - share[..., None]) * other
    padding = encoder.not_a_point_embed.weight.expand(len(tokens), 1, -1)
    return torch.cat([tokens, padding], dim=1)


def decode_points(
    gallery: Gallery,
    images: Sequence[int],
    xy: Tensor,
    share: Tensor,
    *,
    slots: Sequence[int] = (0,),
    negatives: bool = True,
) -> tuple[Tensor, Tensor]:
    """Logits ``[B, len(slots), 4h, 4w]`` and predicted IoUs of points ``[B, N, 2]`` in [0, 1] of their images.

    Gradients flow to ``xy`` and ``share``. Slot 0 is the segmenter's single-mask answer, which it recommends for
    several points.
    """
    sam = gallery.sam
    square = xy * gallery.to_square(images)[:, None]
    tokens = soft_tokens(sam, square, share, negatives=negatives)
    features = gallery.embeddings(images)
    encoder: Any = sam.prompt_encoder
    grid = features.shape[-2:]
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(len(features), -1, *grid)
    return sam.decode(features, tokens, dense, slots)


def strongest(xy: Tensor, share: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` points with the highest and the ``most`` with the lowest confidence, as use takes them.

    ``xy [B, N, 2]`` and ``share [B, N]`` give at most ``2 most`` points each; the choice itself has no gradient.
    """
    if share.shape[1] <= 2 * most:
        return xy, share
    order = share.detach().argsort(dim=1, descending=True)
    picked = torch.cat([order[:, :most], order[:, -most:]], dim=1)
    return xy.gather(1, picked[..., None].expand(-1, -1, 2)), share.gather(1, picked)
