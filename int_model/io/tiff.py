"""What Pillow leaves to its callers in TIFF: colours of 10 to 16 bits, and which end of grey is white."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import TiffImagePlugin

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that scanners use of the 16 of a file."""

_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES = 258, 259, 262, 284
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def full_scale(brightest: float) -> float:
    """The largest value of the smallest usual depth that holds ``brightest``, which is in ``[0, 65535]``."""
    return float(next(2**bits - 1 for bits in DEPTHS if brightest < 2**bits))


def load_colours(picture: PilImage.Image, again: PilImage.Image) -> PilImage.Image:
    """Load an opened TIFF. Colours of 16 bits per channel are spread over 8 bits as grey is: by `full_scale`.

    Pillow keeps the upper byte of such channels alone, which for 12 bits is nearly black. Where it holds too little,
    the lower byte is read from ``again``, the same file opened once more (not that of compressed planes, which Pillow
    unpacks in one way only).

    Raises what Pillow raises for damaged files.
    """
    bits = _tags(picture).get(_BITS, ())
    if picture.mode not in ("RGB", "RGBA") or not bits or any(bit != 16 for bit in bits):
        picture.load()
        return picture
    order = "L" if _tags(picture).prefix == b"II" else "B"
    planes = {band: f"{band};16{order}" for band in "RGBA"}  # Pillow takes planes that lie apart for 8 bits
    _change_raw_modes(picture, planes)
    _change_raw_modes(again, planes)
    picture.load()
    upper = np.asarray(picture)
    others = {f"{mode};16{end}": f"{mode};16{other}" for mode in _MODES for end, other in _OTHER_BYTE.items()}
    packed_planes = _tags(picture).get(_PLANES) == 2 and picture.info.get("compression") != "raw"
    if upper[..., :3].max(initial=0) >= 64 or packed_planes or not _change_raw_modes(again, others):
        return picture
    again.load()
    values = upper.astype(np.uint16) << 8 | np.asarray(again)
    spread = np.empty_like(upper)
    spread[..., :3] = _to_8_bits(values[..., :3])
    spread[..., 3:] = _to_8_bits(values[..., 3:])
    return PilImage.fromarray(spread, picture.mode)


def white_is_zero(picture: PilImage.Image) -> bool:
    """Whether a picture that Pillow loaded in more than 8 bits is a TIFF whose lowest values are white."""
    return isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_PHOTOMETRIC) == 0


def compression_of(picture: PilImage.Image) -> str:
    """The name of an opened TIFF's compression, or its number."""
    number = _tags(picture).get(_COMPRESSION, 1)
    return str(TiffImagePlugin.COMPRESSION_INFO.get(number, number))


_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "R", "G", "B", "A")


def _tags(picture: PilImage.Image) -> Any:
    return picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}


def _change_raw_modes(picture: Any, changes: Mapping[str, str]) -> bool:
    """Have Pillow unpack the stored bytes in another way; whether that is known for all parts of the file."""
    known = [isinstance(tile.args, tuple) and tile.args[0] in changes for tile in picture.tile]
    if not known or not all(known):
        return False
    picture.tile = [tile._replace(args=(changes[tile.args[0]], *tile.args[1:])) for tile in picture.tile]
    return True


def _to_8_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    spread: NDArray[np.uint8] = np.rint(values * (255.0 / full_scale(values.max(initial=0)))).astype(np.uint8)
    return spread
