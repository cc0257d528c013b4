"""Stage 2: mosaics and pastings of stage-1 objects, with exact masks, exact negatives and words that say where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from int_model.core.types import Box, Image, Mask
from int_model.point_prompting.generator.expressions import COLOURS, Described, colour_of, head_noun, singling_out


@dataclass(frozen=True, slots=True, eq=False)
class Cutting:
    """A stage-1 object to compose with: its image, the mask on it, its text."""

    image: Image
    mask: Mask
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Composite:
    """A composed image, the masks of its objects, and expressions with the object meant (-1: none of them)."""

    image: Image
    masks: tuple[Mask, ...]
    expressions: tuple[tuple[str, int], ...]


def compose(cuttings: Sequence[Cutting], index: int, *, seed: int = 0, most: int = 4) -> Composite:
    """Composite number ``index``; the same for ever for one (cuttings, seed, index).

    Half are 2 x 2 mosaics; half are images onto which objects of other images are pasted. In half of them two objects
    have one noun, so that a place, an attribute, a size or a neighbour must be read to tell them apart.

    Args:
        cuttings: objects to choose from, at least one.
        index: which composite.
        seed: of all draws.
        most: most objects of a pasted image.
    """
    rng = np.random.default_rng([seed, 4711, index])
    mosaic = bool(rng.random() < 0.5)
    chosen = _cast(cuttings, 4 if mosaic else int(rng.integers(2, most + 1)), rng)
    image, masks, kept = _mosaic(chosen, rng) if mosaic else _pasted(chosen, rng)
    return Composite(image, tuple(masks), tuple(_expressions(kept, masks, cuttings, rng)))


def _cast(cuttings: Sequence[Cutting], count: int, rng: np.random.Generator) -> list[Cutting]:
    chosen = [cuttings[int(i)] for i in rng.integers(0, len(cuttings), count)]
    if rng.random() < 0.5:
        alike = defaultdict(list)
        for cutting in cuttings:
            alike[head_noun(cutting.text)].append(cutting)
        twins = alike[head_noun(chosen[0].text)]
        chosen[1] = twins[int(rng.integers(len(twins)))]
    order = rng.permutation(len(chosen))
    return [chosen[int(i)] for i in order]


def _mosaic(chosen: Sequence[Cutting], rng: np.random.Generator) -> tuple[Image, list[Mask], list[Cutting]]:
    side = max(chosen[0].image.shape[:2])
    half = side // 2
    image = np.zeros((2 * half, 2 * half, 3), dtype=np.uint8)
    masks, kept = [], []
    for number, cutting in enumerate(chosen[:4]):
        top, left = half * (number // 2), half * (number % 2)
        picture, mask = cutting.image, cutting.mask
        if rng.random() < 0.5:
            picture, mask = picture[:, ::-1], mask[:, ::-1]
        image[top : top + half, left : left + half] = cv2.resize(
            np.ascontiguousarray(picture), (half, half), interpolation=cv2.INTER_AREA
        )
        whole = np.zeros(image.shape[:2], dtype=np.bool_)
        whole[top : top + half, left : left + half] = _resized(mask, half, half)
        if whole.any():
            masks.append(whole)
            kept.append(cutting)
    return image, masks, kept


def _pasted(chosen: Sequence[Cutting], rng: np.random.Generator) -> tuple[Image, list[Mask], list[Cutting]]:
    image = chosen[0].image.copy()
    masks, kept = [chosen[0].mask.copy()], [chosen[0]]
    for cutting in chosen[1:]:
        box = Box.of_mask(cutting.mask)
        if box is None:
            continue
        x1, y1, x2, y2 = (int(v) for v in box.as_tuple())
        scale = float(rng.uniform(0.4, 0.85))
        high, wide = max(4, round((y2 - y1) * scale)), max(4, round((x2 - x1) * scale))
        if high >= image.shape[0] or wide >= image.shape[1]:
            continue
        cut = cv2.resize(cutting.image[y1:y2, x1:x2], (wide, high), interpolation=cv2.INTER_AREA)
        inside = _resized(cutting.mask[y1:y2, x1:x2], high, wide)
        if rng.random() < 0.5:
            cut, inside = np.ascontiguousarray(cut[:, ::-1]), np.ascontiguousarray(inside[:, ::-1])
        for _ in range(10):
            top, left = int(rng.integers(image.shape[0] - high)), int(rng.integers(image.shape[1] - wide))
            region = (slice(top, top + high), slice(left, left + wide))
            if sum(int((mask[region] & inside).sum()) for mask in masks) <= 0.1 * inside.sum():
                break
        else:
            continue
        soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.7)[..., None]
        image[region] = np.clip(image[region] * (1 - soft) + cut * soft, 0, 255).astype(np.uint8)
        whole = np.zeros(image.shape[:2], dtype=np.bool_)
        whole[region] = inside
        masks = [mask & ~whole for mask in masks]
        masks.append(whole)
        kept.append(cutting)
    seen = [i for i, mask in enumerate(masks) if mask.sum() >= 16]
    return image, [masks[i] for i in seen], [kept[i] for i in seen]


def _resized(mask: Mask, high: int, wide: int) -> Mask:
    return np.asarray(cv2.resize(mask.astype(np.float32), (wide, high), interpolation=cv2.INTER_AREA) > 0.5)


def _expressions(
    kept: Sequence[Cutting], masks: Sequence[Mask], cuttings: Sequence[Cutting], rng: np.random.Generator
) -> list[tuple[str, int]]:
    """What is true of one object each, and at the end what is true of none: an absent noun, an absent colour."""
    things = [_described(cutting, mask) for cutting, mask in zip(kept, masks, strict=True)]
    said = [(text, number) for number in range(len(things)) for _, text in singling_out(number, things)]
    shown = {thing.noun for thing in things}
    absent = sorted({head_noun(cutting.text) for cutting in cuttings} - shown)
    if absent:
        said.append((f"the {absent[int(rng.integers(len(absent)))]}", -1))
    coloured = [thing for thing in things if thing.attribute in COLOURS]
    if coloured:
        thing = coloured[int(rng.integers(len(coloured)))]
        alike = [other for other in things if other.noun == thing.noun]
        known = sorted({colour for colour in (colour_of(cutting.text) for cutting in cuttings) if colour})
        others = [colour for colour in known if colour not in {other.attribute for other in alike}]
        if others and all(other.attribute for other in alike):
            said.append((f"the {others[int(rng.integers(len(others)))]} {thing.noun}", -1))
    return said


def _described(cutting: Cutting, mask: Mask) -> Described:
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    centre = (float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height)
    return Described(head_noun(cutting.text), colour_of(cutting.text), centre, float(mask.mean()))
