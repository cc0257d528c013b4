"""Matching of queries with target points, and the losses of stage 1 to 3 with their weights (spec B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from int_model.learning.losses import dice_loss
from int_model.point_prompting.generator.network import Points


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms; the paper's are not public, these are the specification's."""

    place: float = 5.0
    confidence: float = 2.0
    unmatched: float = 0.1
    mask: float = 1.0
    contrast: float = 0.5
    spread: float = 0.1
    focal: float = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Queries ``[K]``, their target groups ``[K]``, and the target point of each point of a query ``[K, P]``."""

    queries: NDArray[np.int64]
    groups: NDArray[np.int64]
    orders: NDArray[np.int64]


def match(
    xy: NDArray[np.float32], share: NDArray[np.float32], groups: NDArray[np.float32], labels: NDArray[np.float32]
) -> Match:
    """The assignment of queries to target groups with the least cost ``5 L1(xy) + 2 (1 - p(label))``.

    The order of the groups does not matter. Every group gets a query as long as there are queries.

    Args:
        xy: points of the queries, ``[Q, P, 2]``.
        share: probability of being positive, ``[Q]``.
        groups: ``[G, P, 2]``.
        labels: 1 or 0, ``[G]``.
    """
    distance = np.abs(xy[:, None, :, None] - groups[None, :, None]).sum(-1)  # [Q, G, P, P]
    count, points = len(groups), xy.shape[1]
    orders = np.zeros((len(xy), count, points), dtype=np.int64)
    if points > 1:
        for q in range(len(xy)):
            for g in range(count):
                orders[q, g] = linear_sum_assignment(distance[q, g])[1]
    nearest = np.take_along_axis(distance, orders[..., None], axis=-1)[..., 0].mean(-1)
    wrong = np.where(labels[None] > 0.5, 1 - share[:, None], share[:, None])
    queries, chosen = linear_sum_assignment(5 * nearest + 2 * wrong)
    return Match(queries.astype(np.int64), chosen.astype(np.int64), orders[queries, chosen])


def point_losses(
    points: Points,
    targets: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    inside: Tensor,
    weights: Tensor,
    how: LossWeights,
) -> Tensor:
    """L_xy, L_conf and L_spread of a batch.

    Args:
        points: of the generator.
        targets: groups ``[G, P, 2]`` and labels ``[G]`` of each pair.
        inside: whether each single point lies on the object, ``float32 [B, Q, P]``: what unmatched queries learn from.
        weights: of the pairs, ``[B]``.
        how: weights of the terms.
    """
    places = points.xy.detach().cpu().numpy()
    shares = torch.sigmoid(points.confidence).detach().cpu().numpy()
    found = [match(places[i], shares[i], groups, labels) for i, (groups, labels) in enumerate(targets)]
    device = points.xy.device
    rows = torch.from_numpy(np.repeat(np.arange(len(found)), [len(own.queries) for own in found])).to(device)
    queries = torch.from_numpy(np.concatenate([own.queries for own in found])).to(device)
    placed = [groups[own.groups[:, None], own.orders] for own, (groups, _) in zip(found, targets, strict=True)]
    wanted = torch.from_numpy(np.concatenate(placed)).to(device)
    signed = [labels[own.groups] for own, (_, labels) in zip(found, targets, strict=True)]
    signs = torch.from_numpy(np.concatenate(signed)).to(device)

    free = torch.ones_like(points.confidence)
    free[rows, queries] = 0
    each = weights / torch.bincount(rows, minlength=len(found)).clamp(min=1)  # of a matched query
    place = (points.xy[rows, queries] - wanted).abs().sum(-1).mean(-1)
    entropy = nnf.binary_cross_entropy_with_logits(points.confidence[rows, queries], signs, reduction="none")
    loose = nnf.binary_cross_entropy_with_logits(points.confidence, inside.mean(-1), reduction="none")
    rest = (loose * free).sum(1) / free.sum(1).clamp(min=1)
    total = ((how.place * place + how.confidence * entropy) * each[rows]).sum()
    total = total + how.confidence * how.unmatched * (rest * weights).sum()
    total = total + how.spread * (_crowding(points.xy, rows, queries, signs) * weights).sum()
    return total / weights.sum().clamp(min=1e-6)


def _crowding(xy: Tensor, rows: Tensor, queries: Tensor, signs: Tensor, least: float = 0.08) -> Tensor:
    """How much the positives of each pair crowd: mean hinge on distances below ``least`` of the side; ``[B]``."""
    sure = signs > 0.5
    points = xy[rows[sure], queries[sure]].flatten(0, 1)
    owner = rows[sure].repeat_interleave(xy.shape[2])
    apart = (points[:, None] - points[None]).square().sum(-1).add(1e-8).sqrt()
    paired = (owner[:, None] == owner[None]).float().triu(1)
    hinge = ((least - apart).clamp(min=0) / least * paired).sum(1)
    sums = xy.new_zeros(len(xy)).index_add(0, owner, hinge)
    counts = xy.new_zeros(len(xy)).index_add(0, owner, paired.sum(1))
    return sums / counts.clamp(min=1)


def mask_losses(logits: Tensor, truth: Tensor, inside: Tensor, weights: Tensor, focal: float = 20.0) -> Tensor:
    """``focal`` times the focal loss (alpha .25, gamma 2) plus dice; all ``[B, h, w]``, ``weights [B]``.

    Only cells that show the image count. Pairs of weight 0 do not count.
    """
    entropy = nnf.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    hit = torch.exp(-entropy)
    balance = 0.25 * truth + 0.75 * (1 - truth)
    cells = inside.sum((1, 2)).clamp(min=1)
    focused = ((balance * (1 - hit) ** 2 * entropy) * inside).sum((1, 2)) / cells
    each = focal * focused + dice_loss(logits, truth, inside)
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)


def sampled(maps: Tensor, xy: Tensor, reach: Tensor) -> Tensor:
    """Values of ``maps [B, h, w]`` over the padded square at points ``xy [B, ..., 2]`` in [0, 1] of the image.

    ``reach [B, 2]`` is the share of the square (x, y) that shows the image. Bilinear; ``float32 [B, ...]``.
    """
    flat = xy.flatten(1, -2) if xy.dim() > 3 else xy
    grid = (flat * reach[:, None] * 2 - 1)[:, None]
    values = nnf.grid_sample(maps[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values[:, 0, 0].reshape(xy.shape[:-1])


def contrast_loss(soft: Tensor, patches: Tensor, sentences: Tensor, same: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE between CLIP's features under the predicted mask and the expressions of the batch.

    Args:
        soft: the mask's probability in CLIP's cells, ``[B, gh, gw]``.
        patches: CLIP's dense features, ``[B, gh, gw, D]``.
        sentences: features of the expressions, ``[B, D]``.
        same: ``bool [B, B]``, True where expression j may be true of pair i too (the same words): not a negative.
        temperature: of the softmax.
    """
    weights = soft / soft.sum((1, 2), keepdim=True).clamp(min=1e-6)
    pooled = nnf.normalize((patches * weights[..., None]).sum((1, 2)), dim=-1)
    scores = pooled @ nnf.normalize(sentences, dim=-1).T / temperature
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(same & ~own, float("-inf"))
    return nnf.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
