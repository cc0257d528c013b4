"""Point matching module (PMM, arXiv 2403.09199; A.4): boundary points move to where the true outline is.

Published: points on the boundary of the estimated mask are moved so that their distance to the true boundary shrinks,
and may replace the mask's outline in use. Ours: the network (a transformer over the ring), prompt-conditioned features
(the decoder's image tokens and its upscaled map), three steps of their own, bidirectional nearest-point matching, and
the rules that keep a ring as it was where moving it would break it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from skimage.draw import polygon
from skimage.measure import find_contours
from torch import Tensor, nn

from int_model.core.types import Floats, Mask
from int_model.learning.sam import Adjust, Encoded, TrainableSam
from int_model.models.protocols import MaskPrompt

POINTS = 64
STEPS = 3
REACH = 2.0  # cells of the logits' grid that one step can move a point by, at an output of 1
LEAST_AREA = 64.0  # cells; smaller rings stay as they are
MOST_AREA_CHANGE = 0.3


class PointMatching(nn.Module):
    """Three refiners, one per step; zero at the start, so that an untrained module moves nothing.

    Args:
        width: channels of the decoder's image tokens (the upscaled map has an eighth).
        hidden: width of the transformers.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        channels = width + width // 8 + 2
        self.steps = nn.ModuleList(_Refiner(channels, hidden) for _ in range(STEPS))

    def forward(self, rings: Tensor, tokens: Tensor, fine: Tensor) -> list[Tensor]:
        """Rings ``[B, N, 2]`` (x, y in cells of the logits' grid) after each step; later steps see moved points.

        ``tokens`` is ``[B, D, h, w]``, ``fine`` ``[B, D / 8, 4h, 4w]``.
        """
        made = []
        for step in self.steps:
            rings = rings.detach() + REACH * step(_features(rings.detach(), tokens, fine))
            made.append(rings)
        return made


class _Refiner(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Linear(channels, hidden)
        self.place = nn.Parameter(torch.randn(POINTS, hidden) * 0.02)
        layer = nn.TransformerEncoderLayer(hidden, 4, 2 * hidden, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(hidden, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Offsets ``[B, N, 2]``."""
        moved: Tensor = self.out(self.layers(self.start(features) + self.place))
        return moved


def _features(rings: Tensor, tokens: Tensor, fine: Tensor) -> Tensor:
    side = fine.shape[-1]
    grid = (2 * rings / side - 1)[:, :, None]
    coarse = nnf.grid_sample(tokens, grid, align_corners=False)[..., 0].transpose(1, 2)
    sharp = nnf.grid_sample(fine, grid, align_corners=False)[..., 0].transpose(1, 2)
    centred = rings - rings.mean(dim=1, keepdim=True)
    canonical = centred / centred.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return torch.cat([coarse, sharp, canonical], dim=-1)


def matching_loss(steps: Sequence[Tensor], truth: Tensor) -> Tensor:
    """Bidirectional nearest-point smooth L1 between each step's ring ``[B, N, 2]`` and a dense ring ``[B, M, 2]``."""
    total = truth.new_zeros(())
    for ring in steps:
        distance = torch.cdist(ring.detach(), truth)
        nearest = torch.gather(truth, 1, distance.argmin(dim=2)[..., None].expand(-1, -1, 2))
        back = torch.gather(ring, 1, distance.argmin(dim=1)[..., None].expand(-1, -1, 2))
        total = total + (nnf.smooth_l1_loss(ring, nearest) + nnf.smooth_l1_loss(back, truth)) / 2
    return total / len(steps)


@dataclass(frozen=True, slots=True, eq=False)
class Conditioned:
    """What the decoder computed for prompts: ``tokens [B, D, h, w]``, ``fine [B, D / 8, 4h, 4w]``, its logits."""

    tokens: Tensor
    fine: Tensor
    logits: Tensor


@contextmanager
def _watched(module: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found["tokens"] = inputs[0]

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        found["fine"] = output

    decoder: Any = module
    hooks = [
        decoder.upscale_conv1.register_forward_pre_hook(before),
        decoder.upscale_conv2.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def condition(
    sam: TrainableSam, encoded: Sequence[Encoded], prompts: Sequence[MaskPrompt], slot: int, adjust: Adjust | None
) -> Conditioned:
    """Decode prompts of one make-up and keep the decoder's prompt-conditioned features."""
    found: dict[str, Tensor] = {}
    with _watched(sam.mask_decoder, found):
        logits, _ = sam.logits(encoded, prompts, (slot,), adjust)
    return Conditioned(found["tokens"], found["fine"], logits[:, 0])


def rings_of(values: NDArray[np.float32], level: float) -> list[Floats]:
    """All outlines ``float64 [P, 2]`` (x, y) of a map ``[h, w]`` at a level, holes included, in cells of its grid."""
    low = float(min(values.min(), level)) - 1
    padded = np.pad(values, 1, constant_values=low)
    return [contour[:, ::-1] - 0.5 for contour in find_contours(padded, level)]  # centres of cells lie at + 0.5


def resampled(ring: Floats, count: int) -> Floats:
    """A closed ring as ``count`` points at equal arc length, ``float64 [count, 2]``, clockwise or not as it was."""
    closed = ring if np.allclose(ring[0], ring[-1]) else np.vstack([ring, ring[:1]])
    lengths = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))]
    at = np.linspace(0, lengths[-1], count, endpoint=False)
    return np.stack([np.interp(at, lengths, closed[:, axis]) for axis in (0, 1)], axis=1)


def signed_area(ring: Floats) -> float:
    """Twice-signed shoelace area halved; the sign is the direction."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def crosses_itself(ring: Floats) -> bool:
    """Whether any two sides of a closed ring that do not touch cross."""
    start, end = ring, np.roll(ring, -1, axis=0)
    count = len(ring)

    def side(a: Floats, b: Floats, c: Floats) -> NDArray[np.float64]:
        return np.asarray(
            (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        )

    a, b = start[:, None], end[:, None]
    c, d = start[None], end[None]
    crossing = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    gap = np.abs(np.arange(count)[:, None] - np.arange(count)[None])
    return bool((crossing & (gap > 1) & (gap < count - 1)).any())


def keeps_shape(before: Floats, after: Floats) -> bool:
    """Whether a moved ring may be used: simple, turning the same way, its area changed by less than 30 %."""
    old, new = signed_area(before), signed_area(after)
    if not np.isfinite(after).all() or old * new <= 0 or abs(new - old) > MOST_AREA_CHANGE * abs(old):
        return False
    return not crosses_itself(after)


def refine(module: PointMatching, given: Conditioned, row: int) -> list[Floats]:
    """The rings of one prompt's mask after the last step; rings that are small or would break stay as they were."""
    rings = rings_of(given.logits[row].detach().cpu().numpy(), 0.0)
    large = [i for i, ring in enumerate(rings) if abs(signed_area(ring)) >= LEAST_AREA]
    if not large:
        return rings
    evenly = [resampled(rings[i], POINTS) for i in large]
    start = torch.from_numpy(np.stack(evenly)).float().to(given.tokens.device)
    tokens, fine = (part[row : row + 1].expand(len(large), -1, -1, -1) for part in (given.tokens, given.fine))
    offsets = (module(start, tokens, fine)[-1] - start).detach().cpu().numpy().astype(np.float64)
    for index, even, shift in zip(large, evenly, offsets, strict=True):
        after = rings[index] + _along(rings[index], even, shift)  # the fine ring moves as its sampled points do
        if keeps_shape(even, even + shift) and keeps_shape(rings[index], after):
            rings[index] = after
    return rings


def _along(ring: Floats, even: Floats, shift: Floats) -> Floats:
    """The offset of every point of a ring, interpolated from those of its evenly spaced samples by arc length."""
    closed = np.vstack([ring, ring[:1]])
    at = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))]
    own, total = at[:-1], at[-1]
    samples = np.linspace(0, total, len(even), endpoint=False)
    return np.stack([np.interp(own, samples, shift[:, axis], period=total) for axis in (0, 1)], axis=1)


def draw(rings: Sequence[Floats], encoded: Encoded, side: int) -> Mask:
    """Rings in cells of the logits' grid as a mask of the image, ``bool [H, W]``; parity decides what is a hole."""
    cells = 4 * encoded.features.shape[-1]
    scale = np.array([encoded.size[1] / encoded.inner[1], encoded.size[0] / encoded.inner[0]]) * side / cells
    mask = np.zeros(encoded.size, dtype=np.bool_)
    for ring in rings:
        if len(ring) > 2:
            own = np.zeros_like(mask)
            own[polygon(ring[:, 1] * scale[1] - 0.5, ring[:, 0] * scale[0] - 0.5, encoded.size)] = True
            mask ^= own
    return mask
