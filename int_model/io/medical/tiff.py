"""Grey TIFF scans of more than 8 bits, shown through a window."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from int_model.core.types import Image
from int_model.io.errors import MAX_PIXELS, ImageError, TooLargeError
from int_model.io.images import decode_image
from int_model.io.medical.windows import Window, grey_image, spread, to_8_bits

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # it tells every damaged tag; our error says it once

_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def looks_like_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF (classic or BigTIFF)."""
    return head[:4] in _MAGICS


def decode_tiff(data: bytes, *, window: Window | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """The first page as ``uint8 [H, W, 3]``, in the file's own pixel grid.

    Grey of more than 8 bits is shown through ``window``, else from its 0.5th to its 99.5th percentile; MINISWHITE is
    inverted. Colour and 8-bit pages are decoded as any other image is.

    Raises:
        ImageError: damaged, too large, or the extra ``medical`` is not installed.
    """
    try:
        import tifffile
    except ImportError:
        raise ImageError("windowed TIFF needs the extra 'medical': pip install 'int-backend[medical]'") from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.samplesperpixel != 1 or page.bitspersample <= 8 or page.dtype is None:
                return decode_image(data, max_pixels=max_pixels)
            small = page.imagelength * page.imagewidth * page.imagedepth <= max_pixels
            values = _values(page, data) if small else np.zeros(0)
            inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - tifffile raises many kinds; their text may quote the file
        raise ImageError(
            f"the TIFF file is damaged, or of a kind that is not read here ({type(error).__name__}); save it with 8 or "
            "16 bits, uncompressed"
        ) from None
    if not small:
        raise TooLargeError(f"the image has more than {max_pixels} pixels; make it smaller")
    low, high = spread(values) if window is None else window.ends
    return grey_image(to_8_bits(values, low, high, invert=inverted))


def _values(page: Any, data: bytes) -> NDArray[Any]:
    """The stored values of a grey page; Pillow reads 12 bits and compressions that tifffile has no decoder for."""
    try:
        return np.asarray(page.asarray())
    except Exception:
        tag = page.tags.get("Orientation")
        if tag is not None and int(tag.value) != 1:  # Pillow would turn it, and masks must lie in the file's own grid
            raise
        with PilImage.open(io.BytesIO(data), formats=["TIFF"]) as picture:
            if not picture.mode.startswith(("I", "F")) or picture.size != (page.imagewidth, page.imagelength):
                raise
            return np.array(picture)
