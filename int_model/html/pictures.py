"""Arrays as small pictures inside a page: ``data:`` URIs of JPEG or PNG, scaled down to what a screen shows."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from int_model.core.types import Image, Mask
from int_model.io.drawing import Colour, encode, shrink, shrink_mask


def data_uri(kind: str, data: bytes) -> str:
    """The file as a ``data:`` URI; ``kind`` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def photo(image: Image, max_side: int, quality: int = 80) -> str:
    """A photograph as JPEG; as PNG where that is smaller (drawings, tiny pictures)."""
    small = shrink(image, max_side)
    jpeg = encode(small, "JPEG", quality=quality, optimize=True)
    png = encode(small, "PNG", optimize=True) if max(small.shape[:2]) <= 256 else jpeg
    return data_uri("image/png", png) if len(png) < len(jpeg) else data_uri("image/jpeg", jpeg)


def mask(region: Mask, colour: Colour, max_side: int, opacity: float = 0.55) -> str:
    """A mask as a PNG that is transparent outside and ``colour`` inside, with an opaque outline."""
    inside = shrink_mask(region, max_side)
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(np.bool_)
    picture = PilImage.fromarray(np.where(core, 1, np.where(inside, 2, 0)).astype(np.uint8))
    picture.putpalette([0, 0, 0, *colour, *colour])
    alpha = bytes((0, round(255 * opacity), 255))
    return data_uri("image/png", encode(picture, "PNG", optimize=True, transparency=alpha, bits=2))


def heat(values: NDArray[np.float32], max_side: int) -> str:
    """A map in ``[0, 1]`` in the colours of *inferno* (dark low, bright high). Values that are not finite show as 0."""
    scaled = np.clip(np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0).astype(np.float32)
    levels = np.rint(shrink(scaled, max_side) * 255).astype(np.uint8)
    return photo(np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]), max_side, 75)
