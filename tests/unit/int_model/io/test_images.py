from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL import ImageOps

from int_model.io.errors import ImageError
from int_model.io.images import decode_image, read_image


def encode(array: np.ndarray, fmt: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(array).save(out, fmt, **options)
    return out.getvalue()


def save(picture: PilImage.Image, fmt: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, fmt, **options)
    return out.getvalue()


def scene(height: int = 24, width: int = 40) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (250, 10, 10)
    image[: height // 2, width // 2 :] = (10, 250, 10)
    image[height // 2 :, : width // 2] = (10, 10, 250)
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("fmt", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_exif_orientation_matches_pillows_own_transpose(orientation: int, fmt: str, options: dict[str, object]) -> None:
    exif = PilImage.Exif()
    exif[274] = orientation
    data = encode(scene(), fmt, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(PilImage.open(io.BytesIO(data))).convert("RGB"))
    image = decode_image(data)
    assert image.shape == ((40, 24, 3) if orientation >= 5 else (24, 40, 3))
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_tiff_orientation_is_applied_once(orientation: int) -> None:
    exif = PilImage.Exif()
    exif[274] = orientation
    image = decode_image(encode(scene(), "TIFF", exif=exif))
    turned = {1: scene(), 6: np.rot90(scene(), -1), 8: np.rot90(scene(), 1)}[orientation]
    np.testing.assert_array_equal(image, turned)


def test_orientation_in_xmp_alone_is_ignored_as_in_browsers() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(scene(), "JPEG", xmp=xmp)
    assert decode_image(data).shape == (24, 40, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"x"])
def test_broken_exif_is_no_orientation(exif: bytes) -> None:
    assert decode_image(encode(scene(), "JPEG", exif=exif)).shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("brightest", "full"), [(255, 255), (1000, 1023), (4000, 4095), (9000, 16383), (40000, 65535), (65535, 65535)]
)
def test_sixteen_bit_grey_is_scaled_by_its_bit_depth(brightest: int, full: int) -> None:
    ramp = np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)
    image = decode_image(encode(ramp))
    assert image.shape == (8, 8, 3)
    expected = np.rint(ramp.astype(np.float64) * 255 / full)
    for channel in range(3):
        np.testing.assert_allclose(image[..., channel], expected, atol=0.5)


def test_float_and_signed_grey_are_stretched() -> None:
    unit = np.array([[0.0, 0.5], [0.25, 0.75]], np.float32)
    assert decode_image(encode(unit, "TIFF"))[..., 0].tolist() == [[0, 128], [64, 191]]
    wide = np.array([[-10.0, np.nan], [0.0, 30.0]], np.float32)
    assert decode_image(encode(wide, "TIFF"))[..., 0].tolist() == [[0, 64], [64, 255]]
    signed = np.array([[-100, 0], [0, 100]], np.int32)
    np.testing.assert_allclose(decode_image(encode(signed, "TIFF"))[..., 0], [[0, 127.5], [127.5, 255]], atol=0.5)
    assert decode_image(encode(np.full((2, 2), 7.0, np.float32), "TIFF")).max() == 0


def test_palette_with_transparency_lies_on_white() -> None:
    picture = PilImage.new("P", (4, 2), 0)
    picture.putpalette([200, 0, 0, 0, 200, 0])
    picture.putpixel((3, 1), 1)
    image = decode_image(save(picture, "PNG", transparency=0))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[1, 3].tolist() == [0, 200, 0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_half_transparent_pixels_are_blended_with_white(mode: str) -> None:
    picture = PilImage.new(mode, (3, 3), (0, 128) if mode == "LA" else (0, 0, 0, 128))
    np.testing.assert_allclose(decode_image(save(picture, "PNG")), 127, atol=1)


def test_cmyk_jpeg_has_the_colours_of_its_inks() -> None:
    picture = PilImage.new("CMYK", (16, 16), (255, 0, 0, 0))
    image = decode_image(save(picture, "JPEG", quality=100))
    np.testing.assert_allclose(image[8, 8], [0, 255, 255], atol=6)


def test_other_modes_and_one_pixel() -> None:
    assert decode_image(save(PilImage.new("1", (5, 3), 1), "PNG")).tolist() == np.full((3, 5, 3), 255).tolist()
    assert decode_image(save(PilImage.new("L", (1, 1), 9), "BMP")).tolist() == [[[9, 9, 9]]]
    frames = [PilImage.new("RGB", (4, 4), c) for c in ("red", "blue")]
    assert decode_image(save(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "looks like text"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (bytes(range(256)), "not an image"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200), "DICOM without its first 132 bytes"),
        (b"\x5c\x01\x00\x00" + bytes(340) + b"ni1\x00", r"header of a NIfTI pair \(.hdr and .img\)"),
        (b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00", "'int-backend medical prepare' makes pictures of it"),
        (b"BM" + bytes(12) + b"\x07\x00\x00\x00" + bytes(80), "BMP.* of a kind that is not read here|not read here"),
    ],
)
def test_other_content_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_image(data)


def test_what_is_valid_but_not_read_is_not_called_damaged() -> None:
    bitmap = bytearray(encode(np.zeros((4, 4, 3), dtype=np.uint8), "BMP"))
    bitmap[30:34] = (9).to_bytes(4, "little")  # a compression that there is not
    with pytest.raises(ImageError, match=r"of a kind that is not read here \(Unsupported BMP compression"):
        decode_image(bytes(bitmap))
    packed = bytearray(encode(np.zeros((4, 4, 3), dtype=np.uint8), "TIFF"))
    tag = packed.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")  # compression
    packed[tag + 8 : tag + 10] = (50001).to_bytes(2, "little")
    with pytest.raises(ImageError, match=r"damaged, or its compression \(webp\) is not read here"):
        decode_image(bytes(packed))


def test_bitmaps_without_a_file_header_are_read() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(decode_image(encode(image, "DIB")), image), ".dib files were collected and then refused"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated_files_are_errors(fmt: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, fmt)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * keep)])


def png_header(width: int, height: int) -> bytes:
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    body = zlib.compress(b"\0" * 10_000)
    idat = b"IDAT" + body
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(body)) + idat + struct.pack(">I", zlib.crc32(idat))


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="pixels"):
        decode_image(png_header(*size))


def test_the_pixel_limit_is_exact() -> None:
    data = encode(scene(10, 10))
    assert decode_image(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="10 x 10"):
        decode_image(data, max_pixels=99)


def test_reading_files(tmp_path: Path) -> None:
    path = tmp_path / "named.txt"
    path.write_bytes(encode(scene()))
    np.testing.assert_array_equal(read_image(path), scene())
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="bytes"):
        read_image(path, max_bytes=10)
    (tmp_path / "t.png").write_text("text")
    with pytest.raises(ImageError, match=r"t\.png"):
        read_image(tmp_path / "t.png")


VALID = [encode(scene(), fmt) for fmt in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_damaged_bytes_give_an_image_or_an_image_error(data: bytes, draw: st.DataObject) -> None:
    body = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(body), max_pixels=1_000_000)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
