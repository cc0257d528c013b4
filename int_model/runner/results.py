"""What is kept of a segmentation: its objects as packed bits, small enough for tens of thousands of images."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np

from int_model.core.types import Mask, Segmentation, Trace

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One found object.

    Attributes:
        name: the mined name.
        score: in ``[0, 1]``.
        size: (H, W) of the image.
        at: row and column of the upper left corner of its tight box.
        shape: rows and columns of that box; (0, 0) for an empty mask.
        bits: the box's pixels, row by row, eight in a byte.
    """

    name: str
    score: float
    size: tuple[int, int]
    at: tuple[int, int]
    shape: tuple[int, int]
    bits: bytes

    @classmethod
    def of(cls, mask: Mask, name: str, score: float) -> StoredObject:
        """From a mask ``bool [H, W]``; a score that is not finite becomes 0."""
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        y, x = (int(rows[0]), int(cols[0])) if rows.size else (0, 0)
        box = mask[y : int(rows[-1]) + 1, x : int(cols[-1]) + 1] if rows.size else mask[:0, :0]
        size, shape = (mask.shape[0], mask.shape[1]), (box.shape[0], box.shape[1])
        return cls(name, _unit(score), size, (y, x), shape, np.packbits(box).tobytes())

    @property
    def mask(self) -> Mask:
        """The pixels ``bool [H, W]``, unpacked at every call."""
        (y, x), (height, width) = self.at, self.shape
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=height * width)
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[y : y + height, x : x + width] = bits.reshape(height, width)
        return mask

    @property
    def area(self) -> int:
        """The number of its pixels."""
        return int(np.bitwise_count(np.frombuffer(self.bits, np.uint8)).sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its tight box (x, y, width, height)."""
        return self.at[1], self.at[0], self.shape[1], self.shape[0]


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
        told = {name: getattr(self, name) for name in ("size", "score", "name", "contrast", "reason")}
        heads = [{"name": o.name, "score": o.score, "at": o.at, "shape": o.shape} for o in self.objects]
        made = {"seconds": self.seconds, "version": self.version}
        text = json.dumps({"format": _FORMAT, **told, **made, "objects": heads}, allow_nan=False).encode()
        return zlib.compress(len(text).to_bytes(4, "big") + text + b"".join(o.bits for o in self.objects), 6)

    @classmethod
    def unpack(cls, payload: bytes) -> StoredResult:
        """The inverse of `pack`. Raises ``ValueError`` if the bytes are damaged or of another format."""
        try:
            data = zlib.decompress(payload)
            length = int.from_bytes(data[:4], "big")
            told, start = json.loads(data[4 : 4 + length]), 4 + length
            if told.pop("format") != _FORMAT:
                raise ValueError("stored by another version")  # noqa: TRY301
            size = _pair(told.pop("size"))
            objects = []
            for entry in told.pop("objects"):
                shape = _pair(entry["shape"])
                end = start + (shape[0] * shape[1] + 7) // 8
                objects.append(
                    StoredObject(entry["name"], entry["score"], size, _pair(entry["at"]), shape, data[start:end])
                )
                start = end
            if start != len(data):
                raise ValueError("its pixels are not complete")  # noqa: TRY301
            return cls(size=size, objects=tuple(objects), **told)
        except (zlib.error, KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"the stored result cannot be read: {error}") from error


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if math.isfinite(value) else 0.0


def _contrast(trace: Trace) -> float | None:
    for iteration in trace.iterations:
        if iteration.index == trace.final_iteration:
            value = float(iteration.contrast[iteration.winner_patch])
            return value if math.isfinite(value) else None
    return None
