"""The same scene as different kinds of file, good and bad; and where in a region to click."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from int_model.core.types import Mask, union

EXIF_ORIENTATION = 0x0112


def phone_photo(scene: NDArray[np.uint8], path: Path) -> Path:
    """A JPEG as a phone held upright writes it: sensor rows sideways, orientation 6 in the EXIF header."""
    sideways = Image.fromarray(np.ascontiguousarray(np.rot90(scene)))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    sideways.save(path, quality=95, subsampling=0, exif=exif)
    with Image.open(path) as photo:
        assert photo.size == (scene.shape[0], scene.shape[1])
        assert ImageOps.exif_transpose(photo).size == (scene.shape[1], scene.shape[0])
    return path


def gray_16_bit(scene: NDArray[np.uint8], path: Path) -> Path:
    gray = np.asarray(Image.fromarray(scene).convert("L"), dtype=np.uint16) * 257
    Image.fromarray(gray).save(path)
    return path


def cmyk_jpeg(scene: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(scene).convert("CMYK").save(path, quality=95)
    return path


def palette_png(scene: NDArray[np.uint8], path: Path) -> Path:
    """A palette PNG with a transparent colour that no pixel of the scene uses."""
    Image.fromarray(scene).quantize(255).save(path, transparency=255)
    return path


def truncated(source: Path, path: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    return path


def text_file(path: Path) -> Path:
    path.write_text("This is no picture.\n" * 20)
    return path


def one_pixel(path: Path) -> Path:
    Image.new("RGB", (1, 1), (120, 90, 60)).save(path)
    return path


def deepest(region: Mask, others: list[Mask]) -> tuple[float, float]:
    """The place, as fractions of width and height, that is deepest in a region and in no other."""
    alone = region & ~union((region.shape[0], region.shape[1]), others)
    depth = cv2.distanceTransform(np.pad(alone, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return (x + 0.5) / region.shape[1], (y + 0.5) / region.shape[0]
