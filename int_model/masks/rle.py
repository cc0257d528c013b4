"""COCO's run lengths of masks: runs down the columns, beginning with background; compressed ones by pycocotools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco

from int_model.core.types import Mask


def encode_counts(mask: Mask) -> str:
    """Compressed run lengths of a mask ``bool [H, W]``."""
    counts: bytes = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


def plain_run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's uncompressed form of a mask: ``size`` [H, W] and ``counts``, plain numbers that any program reads."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0, append=flat.size).tolist()}


def segmentation_to_mask(segmentation: object, height: int, width: int) -> Mask:
    """The pixels ``bool [height, width]`` of a COCO segmentation: polygons, or run lengths of either form.

    Raises:
        ValueError: it is damaged, or for an image of another size (checked before anything is decoded).
    """
    try:
        return np.asarray(coco.decode(_as_rle(segmentation, height, width)), dtype=np.bool_)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"the segmentation cannot be read: {error}") from error


def _as_rle(segmentation: object, height: int, width: int) -> Any:
    if isinstance(segmentation, list) and segmentation:
        if any(len(polygon) < 6 for polygon in segmentation):
            raise ValueError("a polygon has at least 3 points")
        return coco.merge(coco.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, Mapping):
        raise ValueError("it has neither polygons nor run lengths")  # noqa: TRY004 all errors of one kind
    rows, columns = (int(side) for side in segmentation["size"])
    if (rows, columns) != (height, width):
        raise ValueError(
            f"it is {columns} x {rows} pixels, the image {width} x {height}; export the annotations again from these "
            "images"
        )
    counts = segmentation["counts"]
    if not isinstance(counts, list):
        return dict(segmentation)
    if min(counts) < 0 or sum(counts) != height * width:
        raise ValueError(f"its runs add up to {sum(counts)} pixels, not to {width} x {height}")
    return coco.frPyObjects(dict(segmentation), height, width)
