"""What is kept of a segmentation: its objects as COCO run lengths, small enough for tens of thousands of images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields

import numpy as np
from pycocotools import mask as coco_mask

from int_model.core.types import Mask, Segmentation, Trace

FORMAT = 2
"""Of packed results. A part of the keys under which they are kept: those of another format are never read."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One found object: compressed COCO run lengths of an image of ``size`` (H, W), mined name, score in ``[0, 1]``."""

    counts: str
    size: tuple[int, int]
    name: str
    score: float

    @classmethod
    def of(cls, mask: Mask, name: str, score: float) -> StoredObject:
        """From a mask ``bool [H, W]``; scores that are not finite become 0."""
        return cls(encode_counts(mask), (mask.shape[0], mask.shape[1]), name, _unit(score))

    @property
    def mask(self) -> Mask:
        """The pixels ``bool [H, W]``, decoded at every call."""
        return decode_counts(self.counts, self.size)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What one prompt gave on one image.

    Attributes:
        size: (H, W).
        objects: what was found, best first.
        score: of the whole, in ``[0, 1]``.
        name: the mined name, or "".
        contrast: D of the winning patch in the final iteration, or None where the strategy has none.
        reason: why nothing was found, or "".
        seconds: wall time of the micro-batch divided by its images; 0 where it is not known.
        version: of the program that made it, or "".
    """

    size: tuple[int, int]
    objects: tuple[StoredObject, ...] = ()
    score: float = 0.0
    name: str = ""
    contrast: float | None = None
    reason: str = ""
    seconds: float = 0.0
    version: str = ""

    @classmethod
    def of(cls, segmentation: Segmentation, seconds: float = 0.0, version: str = "") -> StoredResult:
        """The part of a segmentation that is kept."""
        return cls(
            size=(int(segmentation.size[0]), int(segmentation.size[1])),
            objects=tuple(StoredObject.of(i.mask, i.label, i.score) for i in segmentation.instances),
            score=_unit(segmentation.score),
            name=segmentation.name or "",
            contrast=_contrast(segmentation.trace),
            reason=segmentation.reason,
            seconds=round(seconds, 4),
            version=version,
        )

    def pack(self) -> bytes:
        """As bytes, for a store."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told["objects"] = [[item.counts, item.name, item.score] for item in self.objects]
        return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> StoredResult:
        """The inverse of `pack`. Raises ``ValueError`` if the bytes are damaged or of another format."""
        try:
            told = json.loads(payload)
            height, width = told.pop("size")
            size = (int(height), int(width))
            objects = tuple(StoredObject(str(c), size, str(n), _unit(float(s))) for c, n, s in told.pop("objects"))
            return cls(size=size, objects=objects, **told)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"the stored result cannot be read: {error}") from error


def encode_counts(mask: Mask) -> str:
    """Compressed COCO run lengths of a mask ``bool [H, W]``."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


def decode_counts(counts: str, size: tuple[int, int]) -> Mask:
    """The mask ``bool [H, W]`` of compressed COCO run lengths of an image of ``size`` (H, W)."""
    return np.asarray(coco_mask.decode({"size": list(size), "counts": counts.encode("ascii")})).astype(np.bool_)


def measure_counts(counts: str, size: tuple[int, int]) -> tuple[int, tuple[int, int, int, int]]:
    """Area in pixels and tight box (x, y, width, height), from the run lengths alone."""
    rle = {"size": list(size), "counts": counts.encode("ascii")}
    x, y, width, height = (round(float(value)) for value in coco_mask.toBbox(rle))
    return int(coco_mask.area(rle)), (x, y, width, height)


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if math.isfinite(value) else 0.0


def _contrast(trace: Trace) -> float | None:
    for iteration in trace.iterations:
        if iteration.index == trace.final_iteration:
            value = float(iteration.contrast[iteration.winner_patch])
            return value if math.isfinite(value) else None
    return None
