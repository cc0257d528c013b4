"""Label Studio's bitmask format: a PNG as a data URL, black and opaque where the mask is, transparent elsewhere."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from int_model.core.types import Mask

_PREFIX = "data:image/png;base64,"


def encode_bitmask(mask: Mask, *, opaque: bool = False) -> str:
    """The data URL of a mask ``bool [H, W]``: a grey and alpha PNG of the image's natural size.

    ``opaque``: a grey PNG instead, white where the mask is, black elsewhere.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError("a mask has two dimensions and at least one pixel")
    white = np.where(mask, np.uint8(255), np.uint8(0))
    out = io.BytesIO()
    PilImage.fromarray(white if opaque else np.stack([np.zeros_like(white), white], axis=2)).save(out, "PNG")
    return _PREFIX + base64.b64encode(out.getvalue()).decode("ascii")


def decode_bitmask(url: str, height: int, width: int) -> Mask:
    """The mask ``bool [height, width]`` of a data URL: where the alpha, or without one the red channel, is over 127.

    Raises:
        ValueError: not a PNG data URL, damaged, or of another size (checked before any pixel is decoded).
    """
    if not url.startswith(_PREFIX):
        raise ValueError("a bitmask is a data URL that starts with data:image/png;base64,")
    try:
        data = base64.b64decode(url[len(_PREFIX) :], validate=True)
        with PilImage.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (width, height):
                found = f"{picture.size[0]} x {picture.size[1]}"
                raise ValueError(f"the bitmask has {found} pixels, not {width} x {height}")
            has_alpha = picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info
            rgba = np.asarray(picture.convert("RGBA"))
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise ValueError(f"the bitmask's PNG cannot be read: {error}") from error
    # An opaque picture shows its mask in white on black, unless it has an alpha channel and no white: all is painted.
    white_on_black = not has_alpha or (bool((rgba[..., 3] == 255).all()) and bool(rgba[..., 0].any()))
    plane = rgba[..., 0] if white_on_black else rgba[..., 3]
    return np.asarray(plane > 127)
