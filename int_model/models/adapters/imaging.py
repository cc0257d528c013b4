"""Small image operations that the adapters share, and the square that a VLM sees of an image. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from int_model.core.types import Box, Image, check_image

CLIP_MEAN: tuple[int, int, int] = (122, 116, 104)
"""CLIP's mean colour, with which LLaVA-1.5 pads images to a square."""


def same_length(**lists: Sequence[object]) -> None:
    """Raise ``ValueError`` unless the named arguments of a batched call have one length."""
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"a batched call needs lists of one length, not {lengths}")


def content_key(image: Image) -> bytes:
    """A 16-byte digest of an image's size and pixels."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def by_size(images: Sequence[Image]) -> list[int]:
    """Indices, the largest image first: a batch then holds prompts of about one length, and little padding."""
    return sorted(range(len(images)), key=lambda i: (-images[i].shape[0] * images[i].shape[1], images[i].shape[:2]))


def mean_colour(means: Sequence[float]) -> tuple[int, int, int]:
    """An image processor's channel means (0-1) as an RGB colour (0-255), rounded down as in LLaVA's training."""
    r, g, b = (int(255 * float(mean)) for mean in means)
    return r, g, b


def to_pil(image: Image) -> PIL.Image.Image:
    """The image for libraries that guess the channel axis of arrays (wrong for images 3 pixels high)."""
    check_image(image)
    return PIL.Image.fromarray(np.ascontiguousarray(image))


def resize(image: Image, height: int, width: int, resample: int) -> Image:
    """The image resized to ``height x width`` with one of Pillow's filters."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(to_pil(image).resize((width, height), PIL.Image.Resampling(resample)))


def shrink(image: Image, longest: int) -> Image:
    """The image, made smaller (box filter and bicubic) if its longer side exceeds ``longest`` pixels."""
    check_image(image)
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)), PIL.Image.Resampling.BICUBIC)


def normalise(image: Image, means: Sequence[float], stds: Sequence[float]) -> NDArray[np.float32]:
    """``(image / 255 - mean) / std`` per channel: ``float32 [3, H, W]``."""
    scaled = (image.astype(np.float32) / 255.0 - np.asarray(means, np.float32)) / np.asarray(stds, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def square_frame(height: int, width: int) -> tuple[int, int, int]:
    """``(side, left, top)`` of the smallest square around an image that is centred in it, in whole pixels."""
    side = max(height, width)
    return side, (side - width) // 2, (side - height) // 2


def pad_to_square(image: Image, fill: tuple[int, int, int] = CLIP_MEAN) -> Image:
    """The image centred in a square of colour ``fill``; nothing is cropped."""
    height, width = image.shape[:2]
    side, left, top = square_frame(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = fill
    square[top : top + height, left : left + width] = image
    return square


def from_square(box: Box, height: int, width: int) -> Box | None:
    """A box in pixels of the padded square, in image pixels and clipped to the image; None if outside."""
    _, left, top = square_frame(height, width)
    x1, x2 = max(0.0, box.x1 - left), min(float(width), box.x2 - left)
    y1, y2 = max(0.0, box.y1 - top), min(float(height), box.y2 - top)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
