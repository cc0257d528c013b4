"""Masks drawn on images: one palette and one way to tint, outline and shrink, whoever shows the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from int_model.core.types import Image, Instance, Mask, check_image

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (255, 122, 41),
    (38, 166, 237),
    (46, 196, 122),
    (240, 80, 140),
    (250, 204, 46),
    (150, 110, 245),
    (0, 200, 200),
    (196, 120, 60),
    (130, 200, 40),
    (225, 90, 225),
)
"""RGB of instance 0, 1, ...; told apart on most photographs and by most colour-blind readers."""

CORRECT, EXTRA, MISSED = (46, 196, 122), (240, 80, 60), (38, 130, 237)
"""RGB of true positive, false positive and false negative pixels in a comparison."""

_SHADOW: Colour = (20, 20, 20)


def colour_of(index: int) -> Colour:
    """The RGB colour of the instance with that index; it repeats after ``len(PALETTE)``."""
    return PALETTE[index % len(PALETTE)]


def hex_colour(index: int) -> str:
    """``colour_of(index)`` as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(index))


def shrink(array: NDArray[Any], max_side: int) -> NDArray[Any]:
    """The array ``[H, W]`` or ``[H, W, 3]`` with its longer side at most ``max_side`` (area mean); never enlarged."""
    height, width = array.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return array
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized: NDArray[Any] = cv2.resize(np.ascontiguousarray(array), size, interpolation=cv2.INTER_AREA)
    return resized


def shrink_mask(mask: Mask, max_side: int) -> Mask:
    """The mask ``[H, W]`` shrunk by majority; one that would vanish keeps every pixel that it touches."""
    share = shrink(mask.astype(np.float32), max_side)
    inside: Mask = share >= 0.5
    return inside if inside.any() else share > 0


def tint(canvas: Image, mask: Mask, colour: Colour, thickness: int = 1) -> None:
    """Tint the pixels of a mask of the same size and outline it, with a dark rim of one pixel. Changes ``canvas``."""
    canvas[mask] = np.rint(0.6 * canvas[mask] + 0.4 * np.array(colour, dtype=np.float32)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, _SHADOW, thickness + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, colour, thickness, cv2.LINE_AA)


def overlay(image: Image, instances: Sequence[Instance]) -> Image:
    """The image with every instance tinted, outlined and captioned ``name score``; the best lie on top.

    Instance ``i`` has ``colour_of(i)``. Returns a new ``uint8 [H, W, 3]``; raises ``ValueError`` if sizes differ.
    """
    check_image(image)
    canvas = image.copy()
    order = sorted(range(len(instances)), key=lambda i: instances[i].score)
    thickness = max(1, round(min(image.shape[:2]) / 300))
    for i in order:
        mask = instances[i].mask
        if mask.shape != image.shape[:2]:
            raise ValueError(f"the mask of instance {i} is {mask.shape}, the image {image.shape[:2]}")
        tint(canvas, mask, colour_of(i), thickness)
    return _captions(canvas, instances, order)


def comparison(image: Image, mask: Mask, truth: Mask, side: int = 320) -> bytes:
    """A JPEG of the grey image, correct pixels green, extra ones red, missed ones blue, the truth outlined in white.

    All are ``[H, W]``; the longer side becomes ``side`` (small images are enlarged up to twice).
    """
    small = shrink(image, side)
    factor = min(2.0, side / max(small.shape[:2]))
    size = (max(1, round(small.shape[1] * factor)), max(1, round(small.shape[0] * factor)))
    canvas = cv2.resize(np.ascontiguousarray(small), size, interpolation=cv2.INTER_CUBIC if factor > 1 else 0)
    own, sought = (cv2.resize(m.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 for m in (mask, truth))
    out = np.repeat(canvas.mean(axis=2, keepdims=True), 3, axis=2)  # grey, so that a colour means one thing only
    for region, colour in ((own & sought, CORRECT), (own & ~sought, EXTRA), (~own & sought, MISSED)):
        out[region] = 0.5 * out[region] + 0.5 * np.array(colour)
    picture = np.ascontiguousarray(np.clip(np.rint(out), 0, 255).astype(np.uint8))
    outlines, _ = cv2.findContours(sought.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return encode(picture, "JPEG", quality=82, optimize=True)


def encode(picture: NDArray[np.uint8] | PilImage.Image, kind: str, **options: Any) -> bytes:
    """A picture (arrays: ``[H, W]`` gray, ``[H, W, 3]`` RGB) as a file; kind and options are those of Pillow."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, PilImage.Image) else PilImage.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _captions(canvas: Image, instances: Sequence[Instance], order: Sequence[int]) -> Image:
    height, width = canvas.shape[:2]
    picture = PilImage.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    size = max(10, round(min(height, width) / 32))
    font = ImageFont.load_default(size)
    pad = max(2, size // 4)
    for i in order:
        text = f"{_printable(instances[i].label)} {instances[i].score:.2f}"
        left, top, right, bottom = (round(v) for v in draw.textbbox((0, 0), text, font=font))
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        x = max(0, min(int(instances[i].box.x1), width - w))
        y = int(instances[i].box.y1) - h
        y = max(0, min(y if y >= 0 else int(instances[i].box.y1), height - h))
        colour = colour_of(i)
        draw.rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 130 else (255, 255, 255)
        draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)
    return np.asarray(picture, dtype=np.uint8)


def _printable(label: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in label)
    return text if len(text) <= 32 else f"{text[:31]}…"
