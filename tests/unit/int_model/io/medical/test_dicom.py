from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from int_model.io.errors import ImageError
from int_model.io.files import find_images
from int_model.io.images import read_image
from int_model.io.medical.dicom import decode_dicom, has_burned_in_text, looks_like_dicom, read_dataset
from int_model.io.medical.windows import Window, spread, to_8_bits
from tests.unit.int_model.io.medical.files import SECRETS, ct


def sample(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


@given(
    values=hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    centre=st.integers(-500, 500),
    width=st.integers(2, 3000),
)
@settings(deadline=None)
def test_the_window_is_the_standards(values: np.ndarray, centre: int, width: int) -> None:
    """PS3.3 C.11.2.1.2.1, written out for one value at a time."""
    image = decode_dicom(ct(values), window=Window(centre, width))
    for stored, shown in zip(values.ravel(), image[..., 0].ravel(), strict=True):
        x = float(stored) - 1024.0
        if x <= centre - 0.5 - (width - 1) / 2:
            share = 0.0
        elif x > centre - 0.5 + (width - 1) / 2:
            share = 1.0
        else:
            share = (x - (centre - 0.5)) / (width - 1) + 0.5
        assert abs(float(shown) - 255 * share) <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["MR_small.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"])
def test_real_files_look_as_pydicom_shows_them(name: str) -> None:
    data = sample(name)
    ds = pydicom.dcmread(io.BytesIO(data))
    theirs = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(np.float64)
    rescaled = apply_modality_lut(ds.pixel_array, ds)
    signed = ds.PixelRepresentation == 1
    low = -(2 ** (ds.BitsStored - 1)) if signed else 0
    high = low + 2**ds.BitsStored - 1
    if "RescaleSlope" in ds:
        low, high = (v * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for v in (low, high))
    assert rescaled.shape == theirs.shape
    expected = (theirs - low) / (high - low) * 255
    assert np.abs(decode_dicom(data)[..., 0].astype(float) - expected).max() <= 0.51


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle_16bit.dcm"])
def test_colours_come_out_as_rgb(name: str) -> None:
    """The test picture of all these files: red on top, then green and blue bars among others."""
    image, plain = decode_dicom(sample(name)).astype(int), decode_dicom(sample("SC_rgb_rle.dcm")).astype(int)
    assert image.shape == (100, 100, 3)
    assert np.abs(image - plain).max() <= 8  # 4:2:2 keeps half of the colour
    assert tuple(plain[5, 50]) == (255, 0, 0)


def test_palettes_become_colours() -> None:
    image = decode_dicom(sample("examples_palette.dcm"))
    assert image.ndim == 3
    assert (image[..., 0] != image[..., 2]).any()


def test_monochrome1_is_inverted() -> None:
    values = np.arange(64, dtype=np.int16).reshape(8, 8)
    normal = decode_dicom(ct(values))
    inverted = decode_dicom(ct(values, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(normal.astype(int) + inverted.astype(int) - 255).max() == 0


def test_the_files_own_window_and_its_shape_count() -> None:
    values = np.arange(1024, 1424, 4, dtype=np.int16).reshape(10, 10)
    own = decode_dicom(ct(values, WindowCenter=200, WindowWidth=100))
    assert np.array_equal(own, decode_dicom(ct(values), window=Window(200, 100)))
    several = decode_dicom(ct(values, WindowCenter=[200, 50], WindowWidth=[100, 30]))
    assert np.array_equal(own, several)
    sigmoid = decode_dicom(ct(values, WindowCenter=200, WindowWidth=100, VOILUTFunction="SIGMOID"))
    expected = 255 / (1 + np.exp(-4 * (values - 1024.0 - 200) / 100))
    assert np.abs(sigmoid[..., 0] - expected).max() <= 0.51
    assert np.array_equal(decode_dicom(ct(values, WindowCenter=200, WindowWidth=0)), decode_dicom(ct(values)))


def test_padding_does_not_set_the_range() -> None:
    values = np.full((20, 20), 1000, dtype=np.int16)
    values[5:15, 5:15] = np.arange(100, dtype=np.int16).reshape(10, 10) + 1000
    values[0] = -2000
    plain, padded = decode_dicom(ct(values)), decode_dicom(ct(values, PixelPaddingValue=-2000))
    assert plain[5:15, 5:15].min() > 200
    assert padded[5:15, 5:15].min() == 0
    assert padded[14, 14, 0] == 255


def broken() -> list[tuple[str, bytes, str]]:
    values = np.zeros((8, 8), dtype=np.int16)
    good = ct(values)
    deflated = bytearray(good)
    deflated[deflated.index(b"1.2.840.10008.1.2.1\x00") :][:20] = b""
    raw = good.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.1.99", 1) + zlib.compress(b"x" * 100)
    return [
        ("text", b"hello", "no DICM mark"),
        ("truncated", good[:-40], "damaged"),
        ("cut in the header", good[:400], "no image|damaged"),
        ("deflated", raw, "deflated"),
        ("frames", sample("SC_rgb_rle_2frame.dcm"), "several frames"),
        ("report", sample("test-SR.dcm"), "no image"),
        ("plan", sample("rtplan.dcm"), "no image"),
        ("no decoder", sample("SC_rgb_jpeg_gdcm.dcm"), "no decoder"),
    ]


@pytest.mark.parametrize(("data", "message"), [pytest.param(d, m, id=n) for n, d, m in broken()])
def test_what_cannot_be_read_says_why(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_dicom(data)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageError, match="the limit is 63"):
        decode_dicom(ct(np.zeros((8, 8), dtype=np.int16)), max_pixels=63)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_never_gets_out_as_anything_but_an_image_error_without_secrets(data: st.DataObject) -> None:
    file = bytearray(ct(np.arange(64, dtype=np.int16).reshape(8, 8), WindowCenter=40, WindowWidth=400))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(132, len(file) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        said = ""
        try:
            decode_dicom(bytes(file))
        except ImageError as error:
            said = str(error)
    assert not any(secret in said for secret in SECRETS)
    assert not seen


def test_nothing_about_the_patient_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    file = ct(np.zeros((8, 8), dtype=np.int16)).replace(b"20250101", b"notadate")
    strange = file.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10\xb408.1.2.1\x00", 1)
    with caplog.at_level(logging.DEBUG):
        decode_dicom(file)
        with contextlib.suppress(ImageError):
            decode_dicom(strange)
    assert not caplog.text


def test_burned_in_text_is_noticed() -> None:
    values = np.zeros((4, 4), dtype=np.int16)
    assert has_burned_in_text(read_dataset(ct(values, BurnedInAnnotation="YES")))
    assert not has_burned_in_text(read_dataset(ct(values, BurnedInAnnotation="NO")))
    assert not has_burned_in_text(read_dataset(ct(values)))
    assert looks_like_dicom(ct(values))
    assert not looks_like_dicom(b"")


def test_every_command_that_reads_files_reads_dicom(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.int16).reshape(8, 8)
    path = tmp_path / "slice.dcm"
    path.write_bytes(ct(values))
    assert find_images([tmp_path]) == [path]
    assert np.array_equal(read_image(path), decode_dicom(path.read_bytes()))


@pytest.mark.parametrize("text", ["40", "40,x", "40,0", "nan,100", "1,2,3", "40,inf"])
def test_windows_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        Window.parse(text)


def test_windows_from_text() -> None:
    assert Window.parse("40, 400") == Window(40, 400)
    assert Window.parse(" Auto ") is None


@given(hnp.arrays(np.float32, (5, 6), elements=st.floats(-1e6, 1e6, width=32)))
def test_the_range_lies_inside_the_values(values: np.ndarray) -> None:
    low, high = spread(values)
    assert values.min() <= low <= high <= values.max()
    shown = to_8_bits(values, low, high)
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()


def test_not_a_number_is_black_and_no_number_sets_no_range() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 0.5]])
    assert to_8_bits(values, 0.0, 1.0).tolist() == [[0, 255, 0, 128]]
    assert spread(np.full((2, 2), np.nan)) == (0.0, 1.0)
