"""Label Studio's brush format: run lengths of the flattened ``H x W x 4`` bytes (the layout of thi.ng/rle-pack).

A code is a 32-bit number of values, the word size, four sizes of the length field, then chunks. The most significant
bit comes first. A mask repeated over four channels has runs of at least four, so the encoder emits runs only; the
decoder also reads the literals that the browser's encoder makes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Mask

_SIZES = (3, 4, 8, 16)
_HEADER_BITS = 53  # 32 count, 5 word size, 4 x 4 length fields
_MAX_RUN = 1 << 16
_AT_ONCE = 1 << 20
_MAX_CHUNKS = 1_000_000  # a texture on a 4K image has 600,000


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
        data = bytes(list(rle))
    except (TypeError, ValueError):
        raise ValueError("a brush code is a list of whole numbers 0..255") from None
    count = height * width * 4
    if len(data) * 8 < _HEADER_BITS:
        raise ValueError("the brush code is damaged: it ends too early")
    head = int.from_bytes(data[:7], "big") >> (56 - _HEADER_BITS)
    if head >> 21 != count:
        raise ValueError(f"the brush code holds {head >> 21} values, an image of {width} x {height} needs {count}")
    if head >> 16 & 31 != 7:
        raise ValueError("brush codes have 8-bit words")
    sizes = [(head >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    out = _decoded(data[: 8 + 4 * count], sizes, count)  # no value takes more than four bytes
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


def _decoded(data: bytes, sizes: Sequence[int], count: int) -> NDArray[np.uint8]:
    """The ``count`` values of the chunks behind the header; ``sizes`` are the widths of length fields in bits.

    Where a chunk begins is known only when the one before it was read, so a loop goes over the chunks; what they say is
    then read from all of them at once.
    """
    padded = np.frombuffer(data + bytes(4), dtype=np.uint8)
    starts = _chunk_starts(data, padded, sizes, count)
    kinds = _fields(padded, starts, np.int64(3))
    widths = np.asarray(sizes, dtype=np.int64)[kinds & 3]
    lengths = _fields(padded, starts + 3, widths) + 1
    total = np.cumsum(lengths)
    stop = int(np.searchsorted(total, count))
    if stop == len(total):
        raise ValueError("the brush code is damaged: it ends too early")
    if total[stop] != count:
        raise ValueError("the brush code is damaged: it runs past the end of the image")
    lengths, is_run, places = lengths[: stop + 1], kinds[: stop + 1] >= 4, (starts + 3 + widths)[: stop + 1]
    words = np.where(is_run, 1, lengths)  # a literal holds as many words as values, a run one
    nth = np.arange(int(words.sum())) - np.repeat(np.cumsum(words) - words, words)
    values = _fields(padded, np.repeat(places, words) + 8 * nth, np.int64(8))
    return _repeated(values.astype(np.uint8), np.repeat(np.where(is_run, lengths, 1), words), count)


def _repeated(values: NDArray[np.uint8], times: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    """``np.repeat`` to ``count`` values, some at a time, as it holds the interpreter: a second for a large image."""
    out, ends, done = np.empty(count, np.uint8), np.cumsum(times), 0
    cuts = np.searchsorted(ends, np.arange(_AT_ONCE, count, _AT_ONCE))
    for some, often in zip(np.split(values, cuts), np.split(times, cuts), strict=True):
        piece = np.repeat(some, often)
        out[done : done + piece.size] = piece
        done += piece.size
    return out


def _chunk_starts(data: bytes, padded: NDArray[np.uint8], sizes: Sequence[int], count: int) -> NDArray[np.int64]:
    """The bits at which complete chunks begin, as far as they may matter; the last ones may be padding."""
    bits = np.unpackbits(padded)
    kinds = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes()
    run_bits = [3 + size + 8 for size in sizes]
    starts, at, end = array("q"), _HEADER_BITS, len(data) * 8
    while at < end and len(starts) < count:
        starts.append(at)
        kind = kinds[at]
        if len(starts) > _MAX_CHUNKS:
            raise ValueError(f"the brush code has more than {_MAX_CHUNKS} runs; use a bitmask region instead")
        if kind >= 4:
            at += run_bits[kind - 4]
        else:
            first, offset, size = at + 3 >> 3, at + 3 & 7, sizes[kind]
            window = int.from_bytes(padded[first : first + 3].tobytes(), "big") >> (24 - offset - size)
            at += 3 + size + 8 * ((window & (1 << size) - 1) + 1)
    if at > end:
        starts.pop()
    return np.array(starts, dtype=np.int64)


def _fields(
    padded: NDArray[np.uint8], places: NDArray[np.int64], widths: NDArray[np.int64] | np.int64
) -> NDArray[np.int64]:
    """The numbers of ``widths`` bits (at most 16) that begin at the bits ``places``, most significant bit first."""
    first = places >> 3
    window = padded[first].astype(np.int64) << 16 | padded[first + 1].astype(np.int64) << 8 | padded[first + 2]
    fields: NDArray[np.int64] = window >> (24 - (places & 7) - widths) & (np.int64(1) << widths) - 1
    return fields
