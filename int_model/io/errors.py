"""What every reader of images refuses, and how large an image may be."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""The largest ``width * height`` that is decoded unless a caller says otherwise."""

MAX_BYTES = 512 * 1024 * 1024
"""The largest file that is read."""

HALF_VOLUME = "this is the header of a NIfTI pair (.hdr and .img); convert both to one .nii file"


class ImageError(ValueError):
    """The bytes are not an image that can be used; the message says why and names the remedy."""


class TooLargeError(ImageError):
    """The image has more pixels than are read; the message tells both figures."""
