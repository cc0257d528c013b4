"""Fetched bytes to pixels, within the service's limit."""

from __future__ import annotations

from int_model.core.types import Image
from int_model.io.errors import ImageError, TooLargeError
from int_model.io.images import decode_image


def decode_fetched(data: bytes, max_pixels: int) -> Image:
    """As `decode_image`. Raises ``ImageError``; for too many pixels it names the setting that allows more."""
    try:
        return decode_image(data, max_pixels=max_pixels)
    except TooLargeError as error:
        raise ImageError(f"{error}, or raise INT_MAX_IMAGE_PIXELS") from None
