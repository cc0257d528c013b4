"""Masks that nobody drew: what the frozen segmenter proposes on a grid of clicks, and how CLIP likes each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from int_model.core.types import Box, Floats, Image, Mask
from int_model.learning.ppt.gallery import Gallery, Step
from int_model.learning.ppt.soft_points import decode_points
from int_model.models.protocols import TextImage

_BLUR = 15  # pixels of the blurred surroundings that CLIP is shown (spec B.3: blurred-background crop)


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Masks of one image on the logits' cells, ``bool [n, 4h, 4w]``, best first, and their predicted IoUs ``[n]``."""

    masks: NDArray[np.bool_]
    quality: Floats


@dataclass(frozen=True, slots=True)
class Clicking:
    """How proposals are made.

    Attributes:
        grid: clicks along each side.
        least_quality: lowest predicted IoU.
        smallest, largest: shares of the image that a mask may cover.
        same: masks whose IoU is greater are one.
        most: masks kept per image.
        sides: sides of the image that a mask may touch; the background touches more.
    """

    grid: int = 8
    least_quality: float = 0.6
    smallest: float = 0.004
    largest: float = 0.7
    same: float = 0.7
    most: int = 30
    sides: int = 2


def propose(
    gallery: Gallery, images: Sequence[int], how: Clicking, step: Step | None = None, batch: int = 144
) -> list[Proposals]:
    """Proposals of each image, from a grid of single clicks and the three alternatives of each."""
    per_image = how.grid**2
    at_once = max(1, batch // per_image)
    found: list[Proposals] = []
    ticks = (np.arange(how.grid) + 0.5) / how.grid
    xs, ys = np.meshgrid(ticks, ticks)
    clicks = torch.from_numpy(np.stack([xs.ravel(), ys.ravel()], axis=-1)).float().to(gallery.sam.device)
    for start in range(0, len(images), at_once):
        some = list(images[start : start + at_once])
        rows = [image for image in some for _ in range(per_image)]
        xy = clicks.repeat(len(some), 1)[:, None]
        with torch.no_grad():
            logits, quality = decode_points(gallery, rows, xy, torch.ones_like(xy[..., 0]), slots=(1, 2, 3))
        low = (logits > 0).view(len(some), per_image * 3, *logits.shape[-2:])
        scores = quality.view(len(some), -1)
        found += [_kept(gallery, image, low[i], scores[i], how) for i, image in enumerate(some)]
        if step is not None:
            step(min(start + at_once, len(images)), len(images))
    return found


def _kept(gallery: Gallery, image: int, masks: Tensor, quality: Tensor, how: Clicking) -> Proposals:
    high, wide = gallery.shown(image)
    inner = masks[:, :high, :wide].float()
    share = inner.mean((1, 2))
    edges = torch.stack([inner[:, 0].mean(1), inner[:, -1].mean(1), inner[:, :, 0].mean(1), inner[:, :, -1].mean(1)])
    fits = (quality >= how.least_quality) & (share >= how.smallest) & (share <= how.largest)
    fits &= (edges > 0.1).sum(0) <= how.sides
    order = torch.argsort(quality, descending=True, stable=True)
    order = order[fits[order]][:120]
    flat = inner[order].flatten(1)
    common = flat @ flat.T
    area = flat.sum(1)
    iou = (common / (area[:, None] + area[None] - common).clamp(min=1)).cpu().numpy()
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) < how.most and all(iou[i, j] <= how.same for j in kept):
            kept.append(i)
    chosen = order[kept]
    return Proposals(masks[chosen].cpu().numpy().astype(np.bool_), quality[chosen].cpu().numpy().astype(np.float64))


def crop_of(image: Image, mask: Mask, margin: float = 0.2) -> Image | None:
    """What CLIP is shown of a mask: its surroundings, blurred where the mask is not; None for an empty mask."""
    box = Box.of_mask(mask)
    if box is None:
        return None
    wide = box.enlarge(margin).clip(*mask.shape)
    x1, y1, x2, y2 = (round(v) for v in (wide or box).as_tuple())
    cut, inside = image[y1:y2, x1:x2], mask[y1:y2, x1:x2]
    blurred = cv2.GaussianBlur(cut, (0, 0), _BLUR)
    return np.where(inside[..., None], cut, blurred).astype(np.uint8)


def crop_features(
    clip: TextImage, gallery: Gallery, pictures: Iterator[tuple[int, Image, Proposals]], batch: int = 256
) -> Iterator[NDArray[np.float32]]:
    """CLIP's features ``float32 [n, D]`` of the crops of each picture's proposals, in order; many per CLIP call."""
    waiting: list[int] = []
    crops: list[Image] = []
    for number, image, proposals in pictures:
        cuts = [crop_of(image, gallery.fine(mask, number)) for mask in proposals.masks]
        crops += [image if cut is None else cut for cut in cuts]
        waiting.append(len(cuts))
        if len(crops) >= batch:
            yield from _split(clip, crops, waiting)
            waiting, crops = [], []
    if waiting:
        yield from _split(clip, crops, waiting)


def _split(clip: TextImage, crops: list[Image], counts: list[int]) -> Iterator[NDArray[np.float32]]:
    features = clip.embed_images(crops)
    start = 0
    for count in counts:
        yield features[start : start + count]
        start += count


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks of one shape; 0 if both are empty."""
    either = int((one | other).sum())
    return float((one & other).sum()) / either if either else 0.0
