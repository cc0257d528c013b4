"""The point generator: learned queries read text and image and become points with confidences (2404.11998, spec B.2).

It is the only part of PPT that is trained; CLIP and SAM stay frozen. The paper's sizes are not public, so that every
size is a setting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIMILARITIES = 4
"""Channels of the similarity map: the expression and its head noun, each scaled to [0, 1] and as a plain cosine."""


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """The shape of a generator.

    Attributes:
        patch_width: D of CLIP's patch features.
        text_width: D of CLIP's text features.
        segmenter_width: channels of the segmenter's features, which the generator then sees too (our addition: CLIP's
            features hardly know colours); 0: it sees CLIP alone, as in the paper.
        width: of the transformer.
        heads: of its attentions.
        layers: of its decoder.
        feed: inner width of its feed-forward parts.
        queries: learned queries.
        points: points per query. 1: a query is a point and its confidence the point's sign. More: a query is an
            object with so many points, and its confidence says whether it is the one meant.
    """

    patch_width: int
    text_width: int
    segmenter_width: int = 0
    width: int = 256
    heads: int = 8
    layers: int = 3
    feed: int = 1024
    queries: int = 40
    points: int = 1

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"the generator's width {self.width} is a multiple of 4 and of its {self.heads} heads")
        if min(self.layers, self.queries, self.points, self.patch_width, self.text_width) < 1:
            raise ValueError("a generator has at least one layer, one query, one point per query and features to read")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the generator is shown of B pairs of image and expression.

    Attributes:
        patches: CLIP's dense features, ``float32 [B, gh, gw, Dp]``.
        similarity: ``float32 [B, gh, gw, 4]``, see ``SIMILARITIES``.
        text: token features of the expressions, ``float32 [B, L, Dt]``.
        words: which of the tokens exist, ``bool [B, L]``; at least one per pair.
        segmenter: the segmenter's features on the same cells, ``float32 [B, gh, gw, Ds]``, or None.
    """

    patches: Tensor
    similarity: Tensor
    text: Tensor
    words: Tensor
    segmenter: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """What the generator says: ``xy float32 [B, Q, P, 2]`` in [0, 1] of the image, ``confidence`` logits ``[B, Q]``."""

    xy: Tensor
    confidence: Tensor

    def flat(self) -> tuple[Tensor, Tensor]:
        """Single points: ``xy [B, Q P, 2]`` and the probability of being on the object ``[B, Q P]``."""
        share = torch.sigmoid(self.confidence)[..., None].expand(self.xy.shape[:3])
        return self.xy.flatten(1, 2), share.flatten(1, 2)


class PointGenerator(nn.Module):
    """Queries -> self-attention -> text -> image -> feed-forward, repeated; then a pointer and a confidence."""

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.patch = nn.Linear(settings.patch_width, width)
        self.similarity = nn.Linear(SIMILARITIES, width)
        self.segmenter = nn.Linear(settings.segmenter_width, width) if settings.segmenter_width else None
        self.visual_norm = nn.LayerNorm(width)
        self.text = nn.Linear(settings.text_width, width)
        self.order = nn.Parameter(torch.zeros(64, width))
        self.queries = nn.Parameter(torch.randn(settings.queries, width) * 0.5)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.pointer = nn.Linear(width, settings.points * width)
        self.key = nn.Linear(width, width)
        self.shift = nn.Linear(width, settings.points * 2)
        self.confidence = nn.Linear(width, 1)
        nn.init.normal_(self.order, std=0.02)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, seen: Seen) -> Points:
        """Points of every pair.

        A point is the mean of the cells' centres under the query's pointer, moved by at most one cell: what is
        attended to is where the point lies, which is learned faster than coordinates from nothing (our choice).
        """
        visual, centres, cell = self._visual(seen)
        text = self.text(seen.text) + self.order[: seen.text.shape[1]]
        missing = ~seen.words
        state = self.queries.expand(len(visual), -1, -1)
        positions = sine_positions(centres, self.settings.width)
        for layer in self.layers:
            state = layer(state, self.queries, text, missing, visual, positions)
        state = self.norm(state)
        batch, queries, points = len(state), self.settings.queries, self.settings.points
        pointers = self.pointer(state).view(batch, queries * points, -1)
        weights = torch.softmax(pointers @ self.key(visual + positions).transpose(1, 2) / self._scale(), dim=-1)
        xy = weights @ centres + torch.tanh(self.shift(state)).view(batch, queries * points, 2) * cell
        return Points(xy.clamp(0, 1).view(batch, queries, points, 2), self.confidence(state)[..., 0])

    def _scale(self) -> float:
        return math.sqrt(self.settings.width)

    def _visual(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Visual tokens ``[B, N, d]``, centres of their cells ``[N, 2]`` in [0, 1], the size of a cell ``[2]``."""
        tokens = self.patch(seen.patches) + self.similarity(seen.similarity)
        if self.segmenter is not None:
            if seen.segmenter is None:
                raise ValueError("this generator reads the segmenter's features too: show it Seen.segmenter")
            tokens = tokens + self.segmenter(seen.segmenter)
        rows, columns = seen.patches.shape[1:3]
        ys, xs = torch.meshgrid(
            (torch.arange(rows, device=tokens.device) + 0.5) / rows,
            (torch.arange(columns, device=tokens.device) + 0.5) / columns,
            indexing="ij",
        )
        centres = torch.stack([xs, ys], dim=-1).view(-1, 2)
        cell = torch.tensor([1 / columns, 1 / rows], device=tokens.device)
        return self.visual_norm(tokens.flatten(1, 2)), centres, cell


class _Layer(nn.Module):
    """Pre-norm self-attention of the queries, attention to the text, attention to the image, feed-forward."""

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        width, heads = settings.width, settings.heads
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.read = nn.MultiheadAttention(width, heads, batch_first=True)
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(width, settings.feed), nn.GELU(), nn.Linear(settings.feed, width))

    def forward(
        self, state: Tensor, queries: Tensor, text: Tensor, missing: Tensor, visual: Tensor, positions: Tensor
    ) -> Tensor:
        own = self.norms[0](state) + queries
        state = state + self.own(own, own, own, need_weights=False)[0]
        read = self.norms[1](state) + queries
        state = state + self.read(read, text, text, key_padding_mask=missing, need_weights=False)[0]
        look = self.norms[2](state) + queries
        state = state + self.look(look, visual + positions, visual + positions, need_weights=False)[0]
        fed: Tensor = state + self.feed(self.norms[3](state))
        return fed


def sine_positions(centres: Tensor, width: int) -> Tensor:
    """Sine and cosine of x and of y at ``width / 4`` wavelengths between 2 and 1/32 of the image: ``[N, width]``."""
    waves = torch.logspace(0, 5, width // 4, base=2.0, device=centres.device) * math.pi
    angles = centres[:, :, None] * waves
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def parameter_count(network: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in network.parameters())
