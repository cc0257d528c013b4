"""Bytes to pixels, once and safely: every image enters the program through this module."""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PilImage

from int_model.core.types import Image
from int_model.io import tiff
from int_model.io.errors import HALF_VOLUME, MAX_BYTES, MAX_PIXELS, ImageError, TooLargeError
from int_model.io.jpeg import MAX_SCANS, has_too_many_scans
from int_model.io.quiet import quieten

quieten()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "DIB")
"""Pillow's names of the raster formats that are accepted. Formats that run programs (SVG, PostScript) never are."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
_BAND_PIXELS = 4_000_000
_USUAL = frozenset({"raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate", "tiff_deflate", "packbits"})
_TIFF_HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_HEADS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((head, "TIFF") for head in _TIFF_HEADS),
)
_BARE_DICOM = "this looks like DICOM without its first 132 bytes (preamble and mark); export it as a DICOM file"
_VOLUME = "this is a NIfTI volume; 'int-backend medical prepare' makes pictures of it"
_RELATIVES = (
    (b"\x08\x00\x00\x00", _BARE_DICOM),
    (b"\x08\x00\x05\x00", _BARE_DICOM),
    (b"\x08\x00\x08\x00", _BARE_DICOM),
    (b"\x08\x00\x16\x00", _BARE_DICOM),
    (b"\x02\x00\x00\x00", _BARE_DICOM),
)
_NOT_IMAGES = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
    (b"%pdf", "PDF"),
    (b"%!ps", "PostScript"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"{", "JSON"),
)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an encoded image to ``uint8 [H, W, 3]``, RGB and upright.

    The format is found from the content, never from a name. The size is checked before any pixel is decoded. The
    EXIF orientation is applied as browsers do; of several frames the first is taken; transparency is laid on white;
    CMYK, palettes and one-bit images are converted. Grey values of more than 8 bits are scaled by the smallest of
    8, 10, 12, 14 or 16 bits that holds the brightest of them (a 12-bit scan in a 16-bit file stays visible), colours
    of 16 bits in TIFF too; signed and floating-point grey is stretched from its minimum to its maximum, except floats
    within ``[0, 1]``.

    Args:
        data: the whole file.
        max_pixels: the largest ``width * height`` that is decoded.

    Raises:
        TooLargeError: more pixels than ``max_pixels``.
        ImageError: empty, of another format or a kind that is not read, truncated or damaged.
    """
    picture = _opened(data, max_pixels)
    with picture:
        width, height = picture.size
        try:
            if picture.format == "TIFF":
                pixels = _to_rgb(tiff.load_colours(picture, PilImage.open(io.BytesIO(data), formats=["TIFF"])))
            else:
                picture.load()
                pixels = _to_rgb(picture)
        except PilImage.DecompressionBombError:
            raise TooLargeError(_too_large(None, max_pixels)) from None
        except MemoryError:
            raise TooLargeError(_too_large((width, height), max_pixels)) from None
        except _BROKEN as error:
            raise ImageError(_damaged(error, picture)) from error
        return np.ascontiguousarray(_upright(pixels, _orientation(picture)))


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) of an encoded image as it is stored, from its header. Errors as `decode_image`, for what that shows."""
    with _opened(data, max_pixels) as picture:
        return picture.height, picture.width


def decode_file(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """As :func:`decode_image`, and single-frame DICOM (with the extra ``medical``): for what lies in a local file.

    DICOM is not read from what comes over the network. Raises ``ImageError``.
    """
    if data[128:132] == b"DICM":
        from int_model.io.medical.dicom import decode_dicom  # its libraries are optional

        return decode_dicom(data, max_pixels=max_pixels)
    return decode_image(data, max_pixels=max_pixels)


def note_on_pages(data: bytes) -> str:
    """One sentence where an image that can be read has more pages than the one that is taken, else ""."""
    if not data.startswith(_TIFF_HEADS):  # the frames of GIF and WEBP are a film, whose beginning is expected
        return ""
    try:
        with PilImage.open(io.BytesIO(data), formats=["TIFF"]) as picture:
            picture.seek(1)
    except (*_BROKEN, PilImage.DecompressionBombError):
        return ""
    return "the file has several pages, of which only the first is used; save the others as files of their own"


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """A file's bytes. Raises ``ImageError`` without the file's name if it is missing, unreadable or too long."""
    what = "file"
    try:
        if path.is_dir():
            what = "folder"
            os.scandir(path).close()
        if not path.is_file():
            raise ImageError("this link leads to no file" if path.is_symlink() else "this is not a file; was it moved?")
        if path.stat().st_size > max_bytes:
            raise ImageError(f"the file has more than {max_bytes} bytes; make it smaller")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ImageError(f"the {what} cannot be read ({reason}); check its permissions") from None


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image:
    """Read an image file; see :func:`read_bytes` and :func:`decode_file`.

    Raises:
        ImageError: as both do; the message begins with the path.
    """
    try:
        return decode_file(read_bytes(Path(path), max_bytes), max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def prepare() -> None:
    """Import Pillow's formats now; else the first image does, which holds up the whole program for 0.3 s."""
    _formats()


def _opened(data: bytes, max_pixels: int) -> PilImage.Image:
    """The picture with its header read; none of its pixels are decoded."""
    if not data:
        raise ImageError("the file is empty; upload the image again")
    try:
        picture = PilImage.open(io.BytesIO(data), formats=_formats())
    except PilImage.DecompressionBombError:
        raise TooLargeError(_too_large(None, max_pixels)) from None
    except UnidentifiedImageError:
        raise ImageError(_unknown(data)) from None
    except _BROKEN as error:
        raise ImageError(_damaged(error)) from error
    width, height = picture.size
    problem: ImageError | None = None
    if width < 1 or height < 1:
        problem = ImageError("the image has no pixels; upload it again")
    elif width * height > max_pixels:
        problem = TooLargeError(_too_large((width, height), max_pixels))
    elif picture.format in ("JPEG", "MPO") and has_too_many_scans(data):
        problem = ImageError(f"the JPEG image has more than {MAX_SCANS} scans; save it again")
    if problem is not None:
        picture.close()
        raise problem
    return picture


def _formats() -> list[str]:
    PilImage.init()
    return [name for name in FORMATS if name in PilImage.OPEN]


def _unknown(data: bytes) -> str:
    kind = next((name for magic, name in _HEADS if data.startswith(magic)), None)
    if kind is not None:
        return f"this {kind} file is damaged, or of a kind that is not read here; save it as PNG"
    advice = next((told for magic, told in _RELATIVES if data.startswith(magic)), None)
    if advice is not None:
        return advice
    if data[344:348] in (b"n+1\x00", b"ni1\x00"):
        return HALF_VOLUME if data[344:347] == b"ni1" else _VOLUME
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    looks = next((name for magic, name in _NOT_IMAGES if head.startswith(magic)), None)
    if looks is None and head and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        looks = "text"
    guess = f" (it looks like {looks})" if looks else ""
    return f"this is not an image in a supported format{guess}; use one of {', '.join(FORMATS)}"


def _damaged(error: BaseException, picture: PilImage.Image | None = None) -> str:
    reason = str(error) or type(error).__name__
    if re.search(r"un-?supported|not supported|not available|unknown|unrecognized", reason, re.IGNORECASE):
        return f"the image is of a kind that is not read here ({reason}); save it as PNG"
    if picture is not None and picture.format == "TIFF" and tiff.compression_of(picture) not in _USUAL:
        packed = tiff.compression_of(picture)
        return f"the TIFF image is damaged, or its compression ({packed}) is not read here; save it as PNG"
    return f"the image is truncated or damaged ({reason}); upload it again"


def _too_large(size: tuple[int, int] | None, max_pixels: int) -> str:
    what = f"{size[0]} x {size[1]} pixels" if size else "far too many pixels"
    return f"the image has {what}, the limit is {max_pixels} in all; make it smaller"


def _orientation(picture: PilImage.Image) -> int:
    """The EXIF orientation 1..8; 1 where there is none or it makes no sense.

    Only the EXIF block counts: Pillow would also believe XMP, browsers do not, and then masks would be turned
    against the picture. (Pillow has already turned a TIFF by now, and keeps no EXIF block for it.)
    """
    block = picture.info.get("exif")
    if not isinstance(block, bytes):
        return 1
    exif = PilImage.Exif()
    try:
        exif.load(block)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Image, orientation: int) -> Image:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _to_rgb(picture: PilImage.Image) -> Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        grey = _grey_to_8_bits(np.asarray(picture))
        if tiff.white_is_zero(picture):
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, band := max(1, _BAND_PIXELS // picture.width)):  # else there are four copies
        bottom = min(top + band, picture.height)
        pixels[top:bottom] = np.asarray(_opaque(picture.crop((0, top, picture.width, bottom))))
    return pixels


def _opaque(picture: PilImage.Image) -> PilImage.Image:
    """As RGB, on white."""
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = PilImage.new("RGBA", layer.size, (255, 255, 255, 255))
        return PilImage.alpha_composite(ground, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _grey_to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of any integer or float type, as ``uint8`` of the same shape."""
    if np.issubdtype(values.dtype, np.floating):
        finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
        low, high = (0.0, 1.0) if finite.min() >= 0.0 and finite.max() <= 1.0 else (finite.min(), finite.max())
    else:
        finite = values.astype(np.float64)
        low, high = finite.min(), finite.max()
        if low >= 0 and high <= 65535:
            low, high = 0.0, tiff.full_scale(high)
    span = high - low
    if span <= 0.0:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint((finite - low) * (255.0 / span)).astype(np.uint8)
