"""Losses on low-resolution logits. The paper names a mask loss and a point-matching loss; the forms are ours (A.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor


def border_weights(truth: Tensor, weight: float = 3.0, reach: int = 2) -> Tensor:
    """1 everywhere, ``weight`` within ``reach`` cells of the truth's outline; ``truth`` is ``[B, h, w]`` in [0, 1]."""
    binary = (truth > 0.5).float()[:, None]
    size = 2 * reach + 1
    grown = nnf.max_pool2d(binary, size, stride=1, padding=reach)
    shrunk = -nnf.max_pool2d(-binary, size, stride=1, padding=reach)
    return 1 + (weight - 1) * (grown - shrunk)[:, 0]


def mask_loss(logits: Tensor, truth: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy (times 3, the outline weighs more) plus dice.

    Args:
        logits: ``[B, h, w]``.
        truth: shares of the cells that the mask covers, ``[B, h, w]``.
        inside: 1 where a cell shows the image, ``[B, h, w]``.
        weights: of the objects, ``[B]``.
    """
    where = border_weights(truth) * inside
    entropy = nnf.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross = (entropy * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)
    return ((3 * cross + dice_loss(logits, truth, inside)) * weights).sum() / weights.sum()


def dice_loss(logits: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """1 minus the soft Dice coefficient of each mask, ``[B]``."""
    soft = torch.sigmoid(logits) * inside
    both = (soft * truth).sum((1, 2))
    return 1 - (2 * both + 1) / (soft.sum((1, 2)) + (truth * inside).sum((1, 2)) + 1)
