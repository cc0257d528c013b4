"""What is kept of one image and one prompt: masks as COCO run lengths, small enough for tens of thousands of images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from int_model.core.types import Mask, Segmentation


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One found object: compressed COCO run lengths (``counts``), the mined name, and its score in ``[0, 1]``."""

    counts: str
    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one prompt gave on one image: objects, or the reason why there are none, or the error.

    Attributes:
        objects: what was found, best first.
        name: the mined name, or "".
        reason: why nothing was found, or "".
        error: why the image could not be done, or ""; such a result has no objects.
        seconds: wall time of the micro-batch divided by its images.
        version: of the package that made it.
    """

    objects: tuple[StoredObject, ...] = ()
    name: str = ""
    reason: str = ""
    error: str = ""
    seconds: float = 0.0
    version: str = ""

    @classmethod
    def of(cls, segmentation: Segmentation, seconds: float, version: str) -> Result:
        """The part of a segmentation that a data set needs."""
        objects = tuple(
            StoredObject(encode_mask(instance.mask), instance.label, _unit(instance.score))
            for instance in segmentation.instances
        )
        return cls(objects, segmentation.name or "", segmentation.reason, "", round(seconds, 4), version)

    def to_json(self) -> str:
        """As one line of JSON."""
        described: dict[str, Any] = {
            "objects": [[item.counts, item.name, item.score] for item in self.objects],
            "name": self.name,
            "reason": self.reason,
            "error": self.error,
            "seconds": self.seconds,
            "version": self.version,
        }
        return json.dumps(described, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The inverse of `to_json`. Raises ``ValueError`` if the text is not one of ours."""
        try:
            told = json.loads(text)
            objects = tuple(StoredObject(str(c), str(n), _unit(float(s))) for c, n, s in told.pop("objects"))
            return cls(objects=objects, **told)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a stored result cannot be read: {error}") from error


def encode_mask(mask: Mask) -> str:
    """Compressed COCO run lengths of a mask ``bool [H, W]``."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


def decode_mask(counts: str, size: tuple[int, int]) -> Mask:
    """The mask ``bool [H, W]`` of compressed COCO run lengths of an image of ``size`` (H, W)."""
    return np.asarray(coco_mask.decode({"size": list(size), "counts": counts.encode("ascii")})).astype(np.bool_)


def measure(counts: str, size: tuple[int, int]) -> tuple[int, tuple[int, int, int, int]]:
    """Area in pixels and tight box (x, y, width, height), from the run lengths alone."""
    rle = {"size": list(size), "counts": counts.encode("ascii")}
    x, y, width, height = (round(float(value)) for value in coco_mask.toBbox(rle))
    return int(coco_mask.area(rle)), (x, y, width, height)


def _unit(value: float) -> float:
    return round(min(max(float(value), 0.0), 1.0), 6) if math.isfinite(value) else 0.0
