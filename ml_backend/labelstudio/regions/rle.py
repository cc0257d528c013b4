"""Label Studio's brush format: run lengths of the flattened ``H x W x 4`` bytes (the layout of thi.ng/rle-pack).

A code is a 32-bit number of values, the word size, four sizes of the length field, then chunks. The most significant
bit comes first. A mask repeated over four channels has runs of at least four, so the encoder emits runs only; the
decoder also reads the literals that the browser's encoder makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask

_SIZES = (3, 4, 8, 16)
_HEADER_BITS = 53  # 32 count, 5 word size, 4 x 4 length fields
_MAX_RUN = 1 << 16


def encode_mask(mask: Mask) -> list[int]:
    """The code of a mask ``bool [H, W]``: painted pixels are 255 (the opacity), the others 0."""
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions, not {mask.ndim}")
    return encode_alpha(np.where(mask, np.uint8(255), np.uint8(0)))


def encode_alpha(alpha: NDArray[np.uint8]) -> list[int]:
    """The code of an opacity map ``uint8 [H, W]`` as bytes 0..255, identical to the official SDK's encoder.

    Raises:
        ValueError: not a two-dimensional ``uint8`` array, empty, or over 2**30 pixels (the count has 32 bits).
    """
    if alpha.ndim != 2 or alpha.dtype != np.uint8 or alpha.size == 0:
        raise ValueError("an opacity map is a non-empty uint8 array of shape [H, W]")
    if alpha.size >= 1 << 30:
        raise ValueError("brush regions end at 2**30 pixels; make the image smaller")
    lengths, values = _runs(alpha.ravel())
    codes, widths = _run_codes(lengths * 4, values)
    header = _bits(np.array([_header(alpha.size * 4)], np.uint64), np.array([_HEADER_BITS]))
    bits = np.concatenate([header, _bits(codes, widths)])
    # The SDK always pads, by a whole byte where none is needed; byte-identical means the same here.
    padded = np.concatenate([bits, np.zeros(8 - bits.size % 8, np.uint8)])
    return [int(byte) for byte in np.packbits(padded)]


def decode_alpha(rle: Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """The opacity ``uint8 [height, width]`` (fourth channel) of a code.

    Raises:
        ValueError: the code is damaged or belongs to an image of another size.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least one pixel, not {height} x {width}")
    try:
        data = bytes(rle)
    except (TypeError, ValueError):
        raise ValueError("a brush code is a list of whole numbers 0..255") from None
    reader = _Reader(data)
    count = reader.read(32)
    if count != height * width * 4:
        raise ValueError(
            f"the brush code holds {count} values, an image of {width} x {height} needs {height * width * 4}"
        )
    if reader.read(5) != 7:
        raise ValueError("brush codes have 8-bit words")
    sizes = [reader.read(4) + 1 for _ in range(4)]
    out = np.zeros(count, dtype=np.uint8)
    position = 0
    while position < count:
        is_run = reader.read(1)
        length = reader.read(sizes[reader.read(2)]) + 1
        if position + length > count:
            raise ValueError("the brush code is damaged: it runs past the end of the image")
        out[position : position + length] = reader.read(8) if is_run else reader.words(length)
        position += length
    return np.ascontiguousarray(out.reshape(height, width, 4)[..., 3])


def decode_mask(rle: Sequence[int], height: int, width: int) -> Mask:
    """The painted pixels ``bool [height, width]`` of a code: where the opacity is not 0. Errors as `decode_alpha`."""
    return decode_alpha(rle, height, width) > 0


def _runs(flat: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Lengths (``int64 [R]``) and values (``uint8 [R]``) of the runs."""
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1).astype(np.int64)
    return np.diff(ends, prepend=-1), flat[ends]


def _run_codes(lengths: NDArray[np.int64], values: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Codes and their widths in bits, after splitting runs over 65,536; the rest of a split run keeps 16 bits."""
    pieces = (lengths + _MAX_RUN - 1) // _MAX_RUN
    last = np.cumsum(pieces) - 1
    split = np.full(int(pieces.sum()), _MAX_RUN, dtype=np.int64)
    split[last] = lengths - (pieces - 1) * _MAX_RUN
    size_index = np.repeat(np.searchsorted([8, 16, 256], lengths, side="left"), pieces).astype(np.uint64)
    field = np.asarray(_SIZES, np.uint64)[size_index]
    code = (np.uint64(4) | size_index) << field | (split - 1).astype(np.uint64)
    code = code << np.uint64(8) | np.repeat(values, pieces).astype(np.uint64)
    return code, (field + np.uint64(11)).astype(np.int64)


def _header(count: int) -> int:
    head = count << 5 | 7
    for size in _SIZES:
        head = head << 4 | (size - 1)
    return head


def _bits(codes: NDArray[np.uint64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The codes' bits one after another, most significant first: ``uint8 [sum(widths)]`` of 0 and 1."""
    ends = np.cumsum(widths)
    shift = (np.repeat(ends, widths) - 1 - np.arange(ends[-1])).astype(np.uint64)
    return (np.repeat(codes, widths) >> shift & np.uint64(1)).astype(np.uint8)


class _Reader:
    """Reads big-endian bit fields; a read past the end is a ``ValueError``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, width: int) -> int:
        end = self._position + width
        if end > len(self._data) * 8:
            raise ValueError("the brush code is damaged: it ends too early")
        first, last = self._position // 8, (end + 7) // 8
        window = int.from_bytes(self._data[first:last], "big") >> (last * 8 - end)
        self._position = end
        return window & ((1 << width) - 1)

    def words(self, count: int) -> NDArray[np.uint8]:
        value = self.read(8 * count)
        return np.frombuffer(value.to_bytes(count, "big"), dtype=np.uint8)
