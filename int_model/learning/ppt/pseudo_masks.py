"""Stage 1: one object per image and its name; the masks are the segmenter's, chosen by CLIP and filtered (spec B.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from int_model.core.types import Floats, Image, Mask
from int_model.learning.ppt.gallery import Gallery, Step
from int_model.learning.ppt.losses import sampled
from int_model.learning.ppt.proposals import Clicking, Proposals, crop_features, overlap, propose


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """An image (its number in the gallery), its text, and the pseudo-mask ``bool [4h, 4w]`` that passed the filters."""

    image: int
    text: str
    mask: Mask


@dataclass(frozen=True, slots=True)
class Filters:
    """What a pseudo-mask must pass: its share of the image, the sides that it touches, agreement with the flip.

    Proposals come from ``grid`` x ``grid`` clicks.
    """

    grid: int = 6
    smallest: float = 0.01
    largest: float = 0.7
    sides: int = 2
    agreement: float = 0.7


def label_objects(
    gallery: Gallery, pictures: Sequence[Image], texts: Sequence[str], filters: Filters, step: Step | None = None
) -> list[Labelled]:
    """Pseudo-masks of object-centric images; images whose mask fails a filter are left out.

    Every image is looked at twice, as it is and mirrored. A mask is taken where both looks agree.
    """
    how = Clicking(grid=filters.grid, smallest=filters.smallest, largest=filters.largest, sides=filters.sides, most=12)
    half = len(pictures)
    numbers = gallery.add(pictures, None if step is None else lambda done, _: step(done, 2 * half))
    own = best_masks(gallery, list(numbers), pictures, texts, how)
    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
    spare = Gallery(gallery.clip, gallery.sam, gallery.sees_segmenter, gallery.device)
    others = spare.add(mirrored, None if step is None else lambda done, _: step(half + done, 2 * half))
    turned = best_masks(spare, list(others), mirrored, texts, how)
    kept = []
    for number, twin, text, mask, other in zip(numbers, others, texts, own, turned, strict=True):
        if mask is None or other is None:
            continue
        agreed = overlap(gallery.fine(mask, number), spare.fine(other, twin)[:, ::-1])
        if agreed >= filters.agreement:
            kept.append(Labelled(number, text, mask))
    return kept


def best_masks(
    gallery: Gallery, numbers: Sequence[int], pictures: Sequence[Image], texts: Sequence[str], how: Clicking
) -> list[Mask | None]:
    """Per image the proposal with the best (CLIP crop score x overlap with the heat map x predicted IoU), or None."""
    proposed = propose(gallery, numbers, how)
    heats = heat_maps(gallery, numbers, texts)
    sentences = [seen.maps[1] for seen in gallery.texts(texts)]

    def shown() -> Iterator[tuple[int, Image, Proposals]]:
        yield from zip(numbers, pictures, proposed, strict=True)

    best: list[Mask | None] = []
    features = crop_features(gallery.clip, gallery, shown())
    for proposals, crops, heat, sentence in zip(proposed, features, heats, sentences, strict=True):
        if not len(proposals.masks):
            best.append(None)
            continue
        scores = _likely(crops @ sentence) * _soft_overlap(heat, proposals.masks) * proposals.quality
        best.append(proposals.masks[int(np.argmax(scores))])
    return best


def _likely(cosines: NDArray[np.float32], temperature: float = 0.1) -> Floats:
    """Cosines as shares of the best one, in (0, 1]."""
    return np.asarray(np.exp((cosines.astype(np.float64) - cosines.max()) / temperature))


def _soft_overlap(heat: NDArray[np.float32], masks: NDArray[np.bool_]) -> Floats:
    """Soft IoU of a heat map with each mask."""
    both = np.minimum(heat[None], masks).sum((1, 2))
    either = np.maximum(heat[None], masks).sum((1, 2))
    return np.asarray(both / np.maximum(either, 1e-6), dtype=np.float64)


def heat_maps(gallery: Gallery, numbers: Sequence[int], texts: Sequence[str], batch: int = 256) -> NDArray[np.float32]:
    """Where each image looks like the head noun of its text, on the logits' cells ``float32 [N, 4h, 4w]`` in [0, 1].

    The similarity's upper half, scaled; cells beyond the image are 0.
    """
    found = []
    for start in range(0, len(numbers), batch):
        some = list(numbers[start : start + batch])
        similarity = gallery.seen(some, texts[start : start + batch]).similarity[..., 1]
        found.append(on_square(gallery, some, ((similarity - 0.5) * 2).clamp(min=0)).cpu().numpy())
    return np.concatenate(found)


def on_square(gallery: Gallery, numbers: Sequence[int], maps: torch.Tensor) -> torch.Tensor:
    """Maps over the image ``[B, gh, gw]`` as maps over the logits' cells ``[B, 4h, 4w]``, 0 beyond the image."""
    cells, device = gallery.cells, maps.device
    centres = (torch.arange(cells, device=device) + 0.5) / cells
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)[None]
    reach = gallery.to_square(numbers) / gallery.sam.side
    grid = grid / reach[:, None, None]
    values = sampled(maps, grid.clamp(0, 1).flatten(1, 2), torch.ones_like(reach))
    return values.view(len(maps), cells, cells) * gallery.inside(numbers)
