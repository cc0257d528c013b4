"""Arrays as small pictures inside a page: ``data:`` URIs of JPEG or PNG, scaled down to what a screen shows."""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from int_model.core.types import Image, Mask
from int_model.io.outputs import Colour


def shrink(array: NDArray[Any], max_side: int) -> NDArray[Any]:
    """The array ``[H, W]`` or ``[H, W, 3]`` with its longer side at most ``max_side`` (area mean); never enlarged."""
    height, width = array.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return array
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized: NDArray[Any] = cv2.resize(np.ascontiguousarray(array), size, interpolation=cv2.INTER_AREA)
    return resized


def photo(image: Image, max_side: int, quality: int = 80) -> str:
    """A photograph as JPEG; as PNG where that is smaller (drawings, tiny pictures)."""
    small = PilImage.fromarray(np.ascontiguousarray(shrink(image, max_side)))
    jpeg = _encoded(small, "JPEG", quality=quality, optimize=True)
    if max(small.size) > 256:
        return _uri("image/jpeg", jpeg)
    png = _encoded(small, "PNG", optimize=True)
    return _uri("image/png", png) if len(png) < len(jpeg) else _uri("image/jpeg", jpeg)


def mask(region: Mask, colour: Colour, max_side: int, opacity: float = 0.55) -> str:
    """A mask as a PNG that is transparent outside and ``colour`` inside, with an opaque outline."""
    inside = shrink(region.astype(np.float32), max_side) >= 0.5
    if region.any() and not inside.any():  # an object smaller than a pixel of the small picture still shows
        inside = shrink(region.astype(np.float32), max_side) > 0
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(np.bool_)
    indices = np.where(core, 1, np.where(inside, 2, 0)).astype(np.uint8)
    picture = PilImage.fromarray(indices)
    picture.putpalette([0, 0, 0, *colour, *colour])
    alpha = bytes((0, round(255 * opacity), 255))
    return _uri("image/png", _encoded(picture, "PNG", optimize=True, transparency=alpha, bits=2))


def heat(values: NDArray[np.float32], max_side: int) -> str:
    """A map in ``[0, 1]`` in the colours of *inferno* (dark low, bright high). Values that are not finite show as 0."""
    scaled = np.clip(np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0).astype(np.float32)
    levels = np.rint(shrink(scaled, max_side) * 255).astype(np.uint8)
    return photo(np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]), max_side, 75)


def _encoded(picture: PilImage.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
