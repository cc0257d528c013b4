"""Connected components: the parts of a mask, and the groups of things that pairs link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from int_model.core.types import Mask


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One 8-connected part of a mask: its pixels ``bool [h, w]`` in its bounding box, whose corner is ``(x, y)``."""

    shape: Mask
    x: int
    y: int
    area: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of the bounding box in the mask."""
        height, width = self.shape.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def components(mask: Mask) -> Iterator[Component]:
    """The 8-connected parts of a mask ``bool [H, W]``, the largest first; among equals in the order of their rows."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for index in sorted(range(1, count), key=lambda i: (-int(stats[i, cv2.CC_STAT_AREA]), i)):
        x, y, width, height, area = (int(value) for value in stats[index])
        yield Component(labels[y : y + height, x : x + width] == index, x, y, area)


def linked_groups(count: int, first: ArrayLike, second: ArrayLike) -> NDArray[np.int64]:
    """The group of each of ``count`` things, ``int64 [count]``; ``first[i]`` and ``second[i]`` are linked.

    Groups are numbered from 0 in the order of their first members.
    """
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    links = coo_array((np.ones(len(a), dtype=np.bool_), (a, b)), shape=(count, count))
    _, labels = connected_components(links, directed=False)
    _, places, members = np.unique(labels, return_index=True, return_inverse=True)
    numbers: NDArray[np.int64] = np.argsort(np.argsort(places))[members]
    return numbers


def remove_small_components(mask: Mask, min_area: float) -> Mask:
    """The mask ``bool [H, W]`` without its parts of fewer than ``min_area`` pixels; its largest part always stays."""
    kept = np.zeros_like(mask)
    for index, part in enumerate(components(mask)):
        if index > 0 and part.area < min_area:
            break
        kept[part.slices] |= part.shape
    return kept
