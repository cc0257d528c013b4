"""Large images in overlapping tiles; objects that cross a seam come back whole (our addition, not in the paper).

The image is divided into cores that cover it exactly once; each is seen with a halo around it. Two pieces from
neighbouring tiles are the same object if they agree where both tiles look. A pixel is decided by the tile in whose core
it lies, where the view around it is widest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import cv2
import numpy as np

from int_model.core.config import StrategyConfig, TilingConfig
from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Box, Image, Instance, Mask, Segmentation, SoftMask, Trace
from int_model.masks.components import linked_groups
from int_model.masks.post_processing import distinct_masks, trusted
from int_model.strategies.base import Strategy
from int_model.strategies.negative_mining.pipeline import check_images

_TILES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the image: the ``core`` that it decides, and the ``view`` (core and halo) that it sees.

    Both have whole-number corners and lie in the image.
    """

    core: Box
    view: Box


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What one tile saw of an object: ``mask`` is ``bool [h, w]`` of the tile's view."""

    tile: int
    mask: Mask
    label: str
    score: float


class Tiled:
    """Runs a strategy on tiles of those images that have more than ``config.tiling.over_pixels`` pixels.

    Smaller images go to the strategy untouched. The trace of a tiled image sums up calls and seconds of its tiles; it
    holds no iterations. Every tile is judged on its own: a strategy that always finds something finds it in empty
    tiles too, so set ``abstain.min_score`` or use a detector's strategy where much of the image may be empty.
    """

    def __init__(self, strategy: Strategy, config: StrategyConfig) -> None:
        self._strategy = strategy
        self._config = config

    @property
    def name(self) -> str:
        """The name of the strategy inside."""
        return self._strategy.name

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        """See ``Strategy.segment``."""
        check_images(images)
        large = {i for i, image in enumerate(images) if _pixels(image) > self._config.tiling.over_pixels}
        small = [image for i, image in enumerate(images) if i not in large]
        whole = iter(self._strategy.segment(small, task)) if small else iter(())
        return [self._in_tiles(image, task) if i in large else next(whole) for i, image in enumerate(images)]

    def _in_tiles(self, image: Image, task: TaskPrompt) -> Segmentation:
        config = self._config.tiling
        size = image.shape[0], image.shape[1]
        tiles = make_tiles(*size, config)
        pieces: list[Piece] = []
        parts: list[Segmentation] = []
        soft: SoftMask = np.zeros(size, dtype=np.float32)
        for start in range(0, len(tiles), _TILES_AT_ONCE):
            group = tiles[start : start + _TILES_AT_ONCE]
            views = [np.ascontiguousarray(image[_cut(tile.view)]) for tile in group]
            for index, part in enumerate(self._strategy.segment(views, task), start):
                pieces += [Piece(index, found.mask, found.label, found.score) for found in part.instances]
                if part.soft_mask is not None:
                    soft[_cut(tiles[index].core)] = part.soft_mask[_cut(tiles[index].core, tiles[index].view)]
                parts.append(part)
        merged = merge(pieces, tiles, size, config.agreement)
        masks, scores = [found.mask for found in merged], [found.score for found in merged]
        kept = distinct_masks(masks, scores, self._config.fuse.duplicate_iou, self._config.fuse.duplicate_cover)
        instances, score = trusted([merged[i] for i in kept], self._config.abstain.min_score)
        return Segmentation(
            size=size,
            task=task.text,
            instances=instances,
            score=score,
            trace=self._trace(parts, tiles, task, size),
            name=max(instances, key=lambda found: found.area).label if instances else None,
            soft_mask=soft,
            reason="" if instances else _reason(parts),
        )

    def _trace(self, parts: Sequence[Segmentation], tiles: Sequence[Tile], task: TaskPrompt, size: Any) -> Trace:
        notes = [f"worked on in {len(tiles)} tiles of {self._config.tiling.side} pixels with a halo around each"]
        return Trace(
            task=task.text,
            strategy=self.name,
            calls=_sum(part.trace.calls for part in parts),
            # a micro-batch shares one clock, so its seconds are counted once
            seconds=_sum(parts[i].trace.seconds for i in range(0, len(parts), _TILES_AT_ONCE)),
            notes=(*notes, *dict.fromkeys(note for part in parts for note in part.trace.notes)),
            size=size,
        )


def make_tiles(height: int, width: int, config: TilingConfig) -> list[Tile]:
    """Tiles row by row. Cores have no side above ``config.side``; views reach ``config.halo`` farther."""
    rows, columns = _edges(height, config.side), _edges(width, config.side)
    whole = Box.whole(height, width)
    tiles = []
    for top, bottom in rows:
        for left, right in columns:
            view = Box(left - config.halo, top - config.halo, right + config.halo, bottom + config.halo)
            tiles.append(Tile(Box(left, top, right, bottom), view.intersect(whole) or whole))
    return tiles


def _edges(length: int, side: int) -> list[tuple[int, int]]:
    count = math.ceil(length / side)
    marks = [round(i * length / count) for i in range(count + 1)]
    return list(pairwise(marks))


def merge(pieces: Sequence[Piece], tiles: Sequence[Tile], size: tuple[int, int], agreement: float) -> list[Instance]:
    """Whole objects of an image of ``size`` (height, width) from what its tiles saw.

    Pieces of two tiles belong together if, in the area that both tiles see, a connected part of one and a connected
    part of the other have an IoU of at least ``agreement``. An object's label is that of its largest piece, its score
    the mean of its pieces' scores, weighted by area.
    """
    links = [(i, j) for i, j in _neighbours(pieces, tiles) if _agree(pieces[i], pieces[j], tiles, agreement)]
    numbers = linked_groups(len(pieces), [i for i, _ in links], [j for _, j in links])
    groups = [np.flatnonzero(numbers == number) for number in range(int(numbers.max(initial=-1)) + 1)]
    return [_whole([pieces[i] for i in group], tiles, size) for group in groups]


def _neighbours(pieces: Sequence[Piece], tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
    """Pairs of pieces from different tiles whose bounding boxes meet."""
    boxes = []
    for piece in pieces:
        box = Box.of_mask(piece.mask)
        boxes.append(None if box is None else box.shift(tiles[piece.tile].view.x1, tiles[piece.tile].view.y1))
    for i, j in combinations(range(len(pieces)), 2):
        a, b = boxes[i], boxes[j]
        if pieces[i].tile != pieces[j].tile and a is not None and b is not None and a.intersect(b) is not None:
            yield i, j


def _agree(one: Piece, other: Piece, tiles: Sequence[Tile], agreement: float) -> bool:
    here, there = tiles[one.tile].view, tiles[other.tile].view
    common = here.intersect(there)
    if common is None:
        return False
    first, second = one.mask[_cut(common, here)], other.mask[_cut(common, there)]
    both = first & second
    if not both.any():
        return False
    first_parts, second_parts = _parts(first), _parts(second)
    first_areas, second_areas = np.bincount(first_parts.ravel()), np.bincount(second_parts.ravel())
    pairs, shared = np.unique(np.stack([first_parts[both], second_parts[both]]), axis=1, return_counts=True)
    iou = shared / (first_areas[pairs[0]] + second_areas[pairs[1]] - shared)
    return bool(iou.max() >= agreement)


def _parts(mask: Mask) -> Any:
    return cv2.connectedComponents(np.ascontiguousarray(mask).astype(np.uint8), connectivity=8)[1]


def _whole(group: Sequence[Piece], tiles: Sequence[Tile], size: tuple[int, int]) -> Instance:
    mask = np.zeros(size, dtype=np.bool_)
    for piece in group:
        mask[_cut(tiles[piece.tile].view)] |= piece.mask
    for tile in {piece.tile for piece in group}:  # where a core's own tile took part, it decides
        core, view = tiles[tile].core, tiles[tile].view
        own = [piece.mask[_cut(core, view)] for piece in group if piece.tile == tile]
        mask[_cut(core)] = np.logical_or.reduce(own)
    if not mask.any():  # pieces that only touch across a seam decide each other away
        best = max(group, key=lambda piece: int(piece.mask.sum()))
        mask[_cut(tiles[best.tile].view)] = best.mask
    areas = np.array([piece.mask.sum() for piece in group], dtype=np.float64)
    score = float(np.average([piece.score for piece in group], weights=areas))
    return Instance.of_mask(mask, group[int(areas.argmax())].label, min(1.0, score))


def _cut(box: Box, inside: Box | None = None) -> tuple[slice, slice]:
    """Row and column slices of a box, relative to the corner of another."""
    left, top = (0, 0) if inside is None else (int(inside.x1), int(inside.y1))
    x1, y1, x2, y2 = (int(v) for v in box.as_tuple())
    return slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)


def _pixels(image: Image) -> int:
    return image.shape[0] * image.shape[1]


def _sum(counts: Any) -> Mapping[str, Any]:
    total: Counter[str] = Counter()
    for entry in counts:
        total.update(entry)
    return dict(sorted(total.items()))


def _reason(parts: Sequence[Segmentation]) -> str:
    reasons = Counter(part.reason for part in parts if part.reason).most_common(1)
    return f"nothing in any of {len(parts)} tiles; most often: {reasons[0][0]}" if reasons else "no trusted object"
