from __future__ import annotations

import gzip
import io
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.io.errors import ImageError
from int_model.io.medical import nifti as module
from int_model.io.medical.nifti import looks_like_nifti, read_volume, to_volume
from int_model.io.medical.tiff import decode_tiff, looks_like_tiff
from int_model.io.medical.windows import Window
from tests.unit.int_model.io.medical.files import nifti

SHAPE = (5, 7, 9)


def oriented(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """An affine whose voxel axes point along the given world axes, with unequal spacings and an origin."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, voxel] = sign * (1.0 + voxel / 4)
    affine[:3, 3] = (-10, 20, 5)
    return affine


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(list(permutations(range(3)))),
    signs=st.sampled_from(list(product((-1, 1), repeat=3))),
    axis=st.integers(0, 2),
    zipped=st.booleans(),
)
def test_a_label_drawn_on_a_slice_lies_on_the_same_voxels(
    order: tuple[int, ...], signs: tuple[int, ...], axis: int, zipped: bool
) -> None:
    """Whatever the orientation: bright voxels are found in the slices, marked there, and come back where they were."""
    rng = np.random.default_rng(3)
    truth = rng.random(SHAPE) < 0.2
    file = nifti(np.where(truth, 900, 100).astype(np.int16), oriented(order, signs))
    volume = read_volume(gzip.compress(file) if zipped else file, window=Window(500, 10))
    labels = {
        index: (volume.slice(axis, index)[..., 0] > 127).astype(np.uint8) * 3 for index in range(volume.count(axis))
    }
    restored = nibabel.Nifti1Image.from_bytes(to_volume(volume, axis, labels).to_bytes())
    original = nibabel.Nifti1Image.from_bytes(file)
    assert restored.shape == SHAPE
    assert np.array_equal(np.asarray(restored.dataobj), np.where(truth, 3, 0))
    assert np.allclose(restored.affine, original.affine)
    assert restored.header.get_xyzt_units() == ("mm", "sec")
    assert b"Doe" not in restored.to_bytes()


def test_axial_slices_have_anterior_at_the_top_and_right_at_the_right() -> None:
    values = np.zeros(SHAPE, dtype=np.int16)
    values[-1, -1, 4] = 1000  # RAS+: the last voxels are right and anterior
    volume = read_volume(nifti(values, oriented((0, 1, 2), (1, 1, 1))), window=Window(500, 10))
    image = volume.slice(2, 4)
    assert image.shape == (7, 5, 3)
    assert image[0, -1, 0] == 255
    assert (image > 0).sum() == 3


def test_masks_of_another_size_are_refused() -> None:
    volume = read_volume(nifti(np.zeros(SHAPE, dtype=np.int16), np.eye(4)))
    with pytest.raises(ValueError, match="slice 2 is"):
        to_volume(volume, 2, {2: np.zeros((5, 7), dtype=np.uint8)})


def test_one_time_point_is_a_volume_several_are_not() -> None:
    one = nifti(np.zeros((*SHAPE, 1), dtype=np.float32), np.eye(4))
    assert read_volume(one).values.shape == SHAPE
    with pytest.raises(ImageError, match="three dimensions"):
        read_volume(nifti(np.zeros((*SHAPE, 2), dtype=np.float32), np.eye(4)))


@pytest.mark.parametrize("kind", ["short", "nonsense", "zipped nonsense", "cut"])
def test_damaged_volumes_say_so(kind: str) -> None:
    good = nifti(np.ones(SHAPE, dtype=np.int16), np.eye(4))
    data = {
        "short": good[:100],
        "nonsense": b"x" * 400,
        "zipped nonsense": b"\x1f\x8bnonsense",
        "cut": good[:-50],
    }[kind]
    with pytest.raises(ImageError, match="damaged"):
        read_volume(data)


def test_zipped_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ImageError, match="more than 1000 bytes unpacked"):
        read_volume(gzip.compress(b"\0" * 2000))


def test_files_are_told_by_their_content() -> None:
    file = nifti(np.zeros(SHAPE, dtype=np.int16), np.eye(4))
    second = bytes(nibabel.Nifti2Image(np.zeros(SHAPE, dtype=np.int16), np.eye(4)).to_bytes())
    assert looks_like_nifti(file[:512], "a")
    assert looks_like_nifti(second[:544], "a")
    assert looks_like_nifti(gzip.compress(file)[:512], "brain.nii.gz")
    assert not looks_like_nifti(gzip.compress(file)[:512], "other.gz")
    assert not looks_like_nifti(b"", "x.nii")
    assert read_volume(second).values.shape == SHAPE


def tiff(values: np.ndarray, **more: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_tiff_is_shown_through_the_window(dtype: type, compression: str | None) -> None:
    values = np.arange(0, 4000, 20).reshape(20, 10).astype(dtype)
    image = decode_tiff(tiff(values, compression=compression), window=Window(1000, 1000))
    expected = np.rint(((values.astype(float) - 500) / 1000).clip(0, 1) * 255)
    assert np.array_equal(image[..., 0], expected)


def test_tiff_without_a_window_uses_its_range_and_white_may_be_zero() -> None:
    values = np.linspace(30_000, 31_000, 400).reshape(20, 20).astype(np.uint16)
    plain = decode_tiff(tiff(values))
    assert plain.min() == 0
    assert plain.max() == 255
    inverted = decode_tiff(tiff(values, photometric="miniswhite"))
    assert np.abs(plain.astype(int) + inverted - 255).max() == 0


def test_other_tiffs() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)
    assert np.array_equal(decode_tiff(tiff(colour, photometric="rgb")), colour)
    with pytest.raises(ImageError, match="more than 20 pixels"):
        decode_tiff(tiff(np.zeros((5, 5), dtype=np.uint16)), max_pixels=20)
    with pytest.raises(ImageError, match="damaged, or of a kind"):
        decode_tiff(b"II*\x00nonsense")
    assert looks_like_tiff(tiff(colour, photometric="rgb", bigtiff=True))
    assert not looks_like_tiff(b"\x89PNG")
