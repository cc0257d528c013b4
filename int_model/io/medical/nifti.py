"""Slices of NIfTI volumes as images, and masks of slices back as a volume of the same grid.

A slice is cut from the volume turned to its closest canonical orientation (RAS+), and shown with the second of the two
remaining axes upwards: axial slices have anterior at the top. `to_volume` undoes exactly that.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.io.errors import HALF_VOLUME, ImageError
from int_model.io.medical.windows import Window, grey_image, spread, to_8_bits

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # its messages quote the header

MAX_BYTES = 2 * 1024**3
_MAX_RATIO = 200
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A volume that slices are cut from.

    Attributes:
        source: nibabel's image, for its grid.
        values: ``float32 [X, Y, Z]`` in canonical orientation.
        low: value that is shown black.
        high: value that is shown white.
    """

    source: Any
    values: NDArray[np.float32]
    low: float
    high: float

    def count(self, axis: int) -> int:
        """How many slices there are along a canonical axis (0 sagittal, 1 coronal, 2 axial)."""
        return int(self.values.shape[axis])

    def slice(self, axis: int, index: int) -> Image:
        """One slice as ``uint8 [H, W, 3]``."""
        flat = np.take(self.values, index, axis=axis)
        return grey_image(to_8_bits(np.rot90(flat), self.low, self.high))


def looks_like_nifti(head: bytes, name: str) -> bool:
    """Whether a file is NIfTI-1 or -2, from its first 352 bytes; gzip is opened only where the name says .nii.gz."""
    if name.lower().endswith(".nii.gz") and head[:2] == b"\x1f\x8b":
        return True
    return head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:8] == b"n+2\x00"


def read_volume(data: bytes, *, window: Window | None = None) -> Volume:
    """A three-dimensional NIfTI file.

    Raises:
        ImageError: not NIfTI, damaged, too large, not three-dimensional, or not of numbers.
    """
    nibabel = _nibabel()
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data)
    if data[344:348] == b"ni1\x00":
        raise ImageError(HALF_VOLUME)
    try:
        kind = nibabel.Nifti2Image if data[4:8] == b"n+2\x00" else nibabel.Nifti1Image
        image = kind.from_bytes(data)
        if len(image.shape) == 4 and image.shape[3] == 1:
            image = image.slicer[..., 0]
        shape = image.shape
    except Exception as error:  # noqa: BLE001 - nibabel raises many kinds; their text may quote the header
        raise ImageError(f"the NIfTI file is damaged ({type(error).__name__}); export it again") from None
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(f"the NIfTI file has the shape {shape}; volumes of three dimensions are read")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"the NIfTI file holds {image.get_data_dtype()}, not plain numbers")
    try:
        values = np.asarray(nibabel.as_closest_canonical(image).dataobj, dtype=np.float32)
    except Exception as error:  # noqa: BLE001 - as above: truncated data
        raise ImageError(f"the NIfTI file is damaged ({type(error).__name__}); export it again") from None
    low, high = spread(values) if window is None else window.ends
    return Volume(image, values, low, high)


def to_volume(volume: Volume, axis: int, labels: Mapping[int, NDArray[np.uint8]]) -> Any:
    """Label maps of slices as a nibabel image with the grid (shape, affine, units) of the volume's own file.

    Args:
        volume: where the slices came from.
        axis: along which they were cut.
        labels: ``uint8 [H, W]`` by slice index; other slices are 0.

    Raises:
        ValueError: a slice has another size.
    """
    nibabel = _nibabel()
    canonical = np.zeros(volume.values.shape, dtype=np.uint8)
    for index, flat in labels.items():
        place = canonical.take(index, axis=axis)
        down = np.rot90(flat, -1)
        if down.shape != place.shape:
            raise ValueError(f"slice {index} is {flat.shape}, its mask must be {place.T.shape}")
        selector: list[Any] = [slice(None)] * 3
        selector[axis] = index
        canonical[tuple(selector)] = down
    orientations = nibabel.orientations
    back = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.io_orientation(volume.source.affine)
    )
    data = orientations.apply_orientation(canonical, back).astype(np.uint8)
    out = type(volume.source)(data, volume.source.affine)  # a new header: the old one may hold free text
    out.header.set_xyzt_units(*volume.source.header.get_xyzt_units())
    for name in ("qform", "sform"):
        affine, code = getattr(volume.source, f"get_{name}")(coded=True)
        if affine is not None:
            getattr(out, f"set_{name}")(affine, int(code))
    return out


def _unzipped(data: bytes) -> bytes:
    """The file in a gzip file; scans shrink to a half or a tenth, so what grows two hundredfold is none."""
    most = min(MAX_BYTES, max(_CHUNK, _MAX_RATIO * len(data)))
    plain = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while len(plain) <= most and (chunk := file.read(_CHUNK)):
                plain += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"the NIfTI file is damaged ({type(error).__name__}); export it again") from None
    if len(plain) > MAX_BYTES:
        raise ImageError(f"the NIfTI file has more than {MAX_BYTES} bytes unpacked")
    if len(plain) > most:
        raise ImageError(f"the NIfTI file unpacks to more than {_MAX_RATIO} times its size; save it as .nii")
    return bytes(plain)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise ImageError("NIfTI files need the extra 'medical': pip install 'int-backend[medical]'") from None
    return nibabel
