"""What the service keeps of a segmentation: enough for regions, small enough to store."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np

from int_model.core.types import Instance, Mask, Segmentation, Trace

_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One object: mask ``bool [H, W]``, mined name, score in ``[0, 1]``."""

    mask: Mask
    name: str
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The result for one image and prompt.

    Attributes:
        size: (H, W).
        score: of the whole, in ``[0, 1]``.
        name: the mined name, or "".
        contrast: D of the winning patch in the final iteration, or None where the strategy has none.
        reason: why nothing was found, or "".
        objects: what was found.
    """

    size: tuple[int, int]
    score: float
    name: str
    contrast: float | None
    reason: str
    objects: tuple[Found, ...]

    @classmethod
    def of(cls, segmentation: Segmentation) -> Findings:
        """The part of a segmentation that is kept."""
        return cls(
            size=(int(segmentation.size[0]), int(segmentation.size[1])),
            score=_unit(segmentation.score),
            name=segmentation.name or "",
            contrast=_contrast(segmentation.trace),
            reason=segmentation.reason,
            objects=tuple(_found(instance) for instance in segmentation.instances),
        )

    def pack(self) -> bytes:
        """As bytes: masks as packed bits of their boxes, all compressed."""
        heads, blobs = [], []
        for found in self.objects:
            rows, cols = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
            y, x = int(rows[0]), int(cols[0])
            crop = found.mask[y : int(rows[-1]) + 1, x : int(cols[-1]) + 1]
            heads.append({"name": found.name, "score": found.score, "at": [y, x], "shape": list(crop.shape)})
            blobs.append(np.packbits(crop).tobytes())
        head = {
            "format": _FORMAT,
            "size": self.size,
            "score": self.score,
            "name": self.name,
            "contrast": self.contrast,
            "reason": self.reason,
            "objects": heads,
        }
        text = json.dumps(head, allow_nan=False).encode()
        return zlib.compress(len(text).to_bytes(4, "big") + text + b"".join(blobs), 6)

    @classmethod
    def unpack(cls, payload: bytes) -> Findings:
        """The inverse of `pack`. Raises ``ValueError`` if the bytes are damaged or of another format."""
        try:
            data = zlib.decompress(payload)
            length = int.from_bytes(data[:4], "big")
            head, at = json.loads(data[4 : 4 + length]), 4 + length
            if head["format"] != _FORMAT:
                raise ValueError("stored by another version")  # noqa: TRY301
            size = (int(head["size"][0]), int(head["size"][1]))
            objects = []
            for entry in head["objects"]:
                (y, x), (height, width) = entry["at"], entry["shape"]
                count = (height * width + 7) // 8
                bits = np.unpackbits(np.frombuffer(data[at : at + count], np.uint8), count=height * width)
                at += count
                mask = np.zeros(size, dtype=np.bool_)
                mask[y : y + height, x : x + width] = bits.reshape(height, width) > 0
                objects.append(Found(mask, entry["name"], entry["score"]))
            return cls(size, head["score"], head["name"], head["contrast"], head["reason"], tuple(objects))
        except (zlib.error, KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"the stored result cannot be read: {error}") from error


def _found(instance: Instance) -> Found:
    return Found(instance.mask, instance.label, _unit(instance.score))


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if math.isfinite(value) else 0.0


def _contrast(trace: Trace) -> float | None:
    for iteration in trace.iterations:
        if iteration.index == trace.final_iteration:
            value = float(iteration.contrast[iteration.winner_patch])
            return value if math.isfinite(value) else None
    return None
