"""Odd TIFFs: deep colours, white at zero, kinds that only one library reads, several pages, and damage in silence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PilImage

from int_model.io.errors import ImageError
from int_model.io.images import decode_image
from int_model.io.medical.tiff import decode_tiff
from int_model.io.medical.windows import Window

RAMP = (np.add.outer(np.arange(40), np.arange(50)) * 40).astype(np.uint16)  # 0 to 3520: 12 bits
COLOURS = np.stack([RAMP, RAMP // 2, RAMP // 3], axis=-1)


def made(values: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **more)
    return buffer.getvalue()


def by_pillow(values: np.ndarray, compression: str | None) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(values).save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


def of_12_bits(values: np.ndarray, photometric: int = 1) -> bytes:
    """Packed 12-bit grey, which neither library writes."""
    first, second = values.reshape(-1, 2).astype(np.uint16).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, photometric), (273, 0), (277, 1), (278, height)]
    entries = [*tags, (279, len(packed))]
    start = 8 + 2 + 12 * len(entries) + 4
    head = b"II*\x00" + struct.pack("<IH", 8, len(entries))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries)
    return head + body + b"\0\0\0\0" + packed


@pytest.mark.parametrize(
    "more",
    [
        {"byteorder": "<"},
        {"byteorder": ">"},
        {"compression": "zlib", "byteorder": "<"},
        {"compression": "zlib", "byteorder": ">"},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
    ],
)
def test_colours_of_twelve_bits_stay_visible(more: dict[str, Any]) -> None:
    values = np.moveaxis(COLOURS, -1, 0) if "planarconfig" in more else COLOURS
    image = decode_image(made(values, photometric="rgb", **more))
    assert np.array_equal(image, np.rint(COLOURS * (255 / 4095)).astype(np.uint8)), "it used to be nearly black"


def test_colours_that_fill_sixteen_bits_are_as_they_were() -> None:
    image = decode_image(made(COLOURS * 18, photometric="rgb"))
    assert np.array_equal(image, (COLOURS * 18 >> 8).astype(np.uint8))


def test_deep_colours_lie_on_white_where_they_are_transparent() -> None:
    alpha = np.full((40, 50, 1), 4095, dtype=np.uint16)
    alpha[0] = 0
    image = decode_image(made(np.concatenate([COLOURS, alpha], -1), photometric="rgb", extrasamples=["unassalpha"]))
    assert (image[0] == 255).all()
    assert np.array_equal(image[1:], np.rint(COLOURS * (255 / 4095)).astype(np.uint8)[1:])


@pytest.mark.parametrize("top", [4095, 65535])
def test_white_is_zero_in_more_than_eight_bits_too(top: int) -> None:
    values = (RAMP.astype(np.float64) / RAMP.max() * top).astype(np.uint16)
    image = decode_image(made(values, photometric="miniswhite"))
    assert image[0, 0, 0] == 255, "it used to be a negative"
    assert image[-1, -1, 0] == 0
    assert np.array_equal(image, 255 - decode_image(made(values, photometric="minisblack")))


@pytest.mark.parametrize("compression", ["tiff_lzw", "zstd", "tiff_adobe_deflate", "packbits", None])
def test_a_window_works_with_every_compression_that_is_read_elsewhere(compression: str | None) -> None:
    plain = decode_tiff(made(RAMP), window=Window(1000, 800))
    assert np.array_equal(decode_tiff(by_pillow(RAMP, compression), window=Window(1000, 800)), plain)
    assert np.array_equal(decode_tiff(of_12_bits(RAMP), window=Window(1000, 800)), plain)


def test_what_is_not_read_is_not_called_damaged_alone() -> None:
    odd = of_12_bits(RAMP, photometric=0)
    for decode in (decode_image, decode_tiff):
        with pytest.raises(ImageError, match="of a kind that is not read here"):
            decode(odd)


_NOISE = """
import random, sys
from int_model.io.images import decode_image
from int_model.io.medical.tiff import decode_tiff
random = random.Random(3)
data = sys.stdin.buffer.read()
refused = 0
for _ in range(150):
    bad = bytearray(data)
    for _ in range(random.choice([1, 5, 50])):
        bad[random.randrange(len(bad) if random.random() < 0.5 else 300)] = random.randrange(256)
    for decode in (decode_image, decode_tiff):
        try:
            decode(bytes(bad))
        except ValueError:
            refused += 1
print(refused)
"""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_libraries_print_nothing_about_damaged_files(compression: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NOISE], input=by_pillow(RAMP, compression), capture_output=True, check=True
    )
    assert int(done.stdout) > 20
    assert done.stderr == b"", "it used to be hundreds of lines"
