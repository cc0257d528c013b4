"""Near-duplicate images: a perceptual hash, and groups of images that look alike, found without comparing all pairs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.masks.components import linked_groups

BITS = 64
Hashes = NDArray[np.uint64]
Links = NDArray[np.int64]
_SIDE, _KEPT = 32, 8
_ROWS = 2048  # hashes compared at once with all of their bucket
_LINKS = 1 << 22  # kept before they are merged into groups


def perceptual_hash(image: Image) -> int:
    """64 bits that change little when an image is scaled, recompressed or slightly recoloured.

    The 8 x 8 lowest frequencies of the discrete cosine transform of the grey image, squeezed to 32 x 32 pixels: a bit
    says whether a frequency lies above the median of all but the mean brightness (whose own bit is 0). This is the
    usual "pHash". A featureless image gives 0.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_KEPT, :_KEPT].ravel()
    low[np.abs(low) < 1e-3] = 0.0  # rounding of a flat image is no structure
    bits = low > np.median(low[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(a: int, b: int) -> int:
    """The number of bits in which two hashes differ."""
    return (a ^ b).bit_count()


def near_duplicate_groups(
    hashes: Sequence[int], max_distance: int, together: Sequence[Sequence[Hashable]] = ()
) -> list[int]:
    """A group number per image: images whose hashes differ in at most ``max_distance`` bits share one, transitively.

    Exact (nothing within the distance is missed) and far below all pairs: the hash is cut into ``max_distance + 1``
    bands, and two hashes within the distance agree in at least one of them, so only equal bands are compared.

    Args:
        hashes: 64-bit numbers.
        max_distance: 0 to 16; 0 groups equal hashes only.
        together: further keys, one per image each (a digest, a folder): images with an equal key share a group.

    Returns:
        Numbers from 0 in the order of the groups' first images.
    """
    if not 0 <= max_distance <= 16:
        raise ValueError(f"the distance of near-duplicates is 0 to 16 bits, not {max_distance}")
    links, waiting = [_equal(keys) for keys in (hashes, *together)], 0
    if max_distance:
        unique, places = np.unique(np.asarray(hashes, dtype=np.uint64), return_index=True)
        for bucket in (bucket for band in _bands(max_distance + 1) for bucket in _buckets(unique & band)):
            for found in _close(unique[bucket], max_distance):
                links.append(places[bucket][found])
                waiting += found.shape[1]
                if waiting > _LINKS:
                    links, waiting = [_equal(linked_groups(len(hashes), *np.concatenate(links, axis=1)).tolist())], 0
    groups: list[int] = linked_groups(len(hashes), *np.concatenate(links, axis=1)).tolist()
    return groups


def _bands(count: int) -> list[np.uint64]:
    """Masks of ``count`` runs of bits, as equal as can be, that together cover the hash."""
    ends = [BITS * i // count for i in range(count + 1)]
    return [np.uint64(((1 << (end - start)) - 1) << start) for start, end in pairwise(ends)]


def _buckets(keys: Hashes) -> list[NDArray[np.int64]]:
    """The positions of equal keys, for every key that occurs at least twice."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
    return [part for part in np.split(order, starts[1:]) if len(part) > 1]


def _equal(keys: Sequence[Hashable]) -> Links:
    """Links from the first position of every key to the others."""
    first: dict[Hashable, int] = {}
    return np.array([[first.setdefault(key, i) for i, key in enumerate(keys)], range(len(keys))], dtype=np.int64)


def _close(hashes: Hashes, max_distance: int) -> Iterator[Links]:
    """Links between the positions of hashes within the distance, a block of rows at a time."""
    for start in range(0, len(hashes), _ROWS):
        rows = hashes[start : start + _ROWS, None] ^ hashes[None, :]
        near, other = np.nonzero(np.bitwise_count(rows) <= max_distance)
        yield np.stack([near + start, other])
