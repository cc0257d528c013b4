"""Single-frame DICOM images: pixels as a radiologist's viewer shows them, and nothing about the patient."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.io.errors import MAX_PIXELS, ImageError
from int_model.io.medical.windows import Window, grey_image, spread, to_8_bits

if TYPE_CHECKING:
    from pydicom import Dataset

# These libraries' messages quote values of the file, which may be the patient's.
for _name in ("pydicom", "highdicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_MAGIC_AT = 128
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_META_BYTES = 65_536
_FORMS = {"LINEAR", "LINEAR_EXACT", "SIGMOID"}


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with these (at least 132) bytes is a DICOM file (PS3.10)."""
    return head[_MAGIC_AT : _MAGIC_AT + 4] == b"DICM"


def read_dataset(data: bytes) -> Dataset:
    """The data set of a DICOM file, for one image.

    Raises:
        ImageError: not DICOM, damaged, deflated, without pixels, or of several frames.
    """
    pydicom = _pydicom()
    if not looks_like_dicom(data[: _MAGIC_AT + 4]):
        raise ImageError("this is not a DICOM file: it has no DICM mark at byte 128")
    if _DEFLATED in data[_MAGIC_AT:_META_BYTES]:  # deflated data could swell to any size before a check
        raise ImageError("deflated DICOM files are not read; export the image uncompressed")
    with _quietly("the DICOM file is damaged"):
        dataset: Dataset = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
            raise ImageError("the DICOM file holds no image (a report, a structure set or a plan, perhaps)")
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise ImageError("the DICOM file holds several frames; export them as single-frame files")
        return dataset


def decode_dicom(data: bytes, *, window: Window | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """A single-frame DICOM file as ``uint8 [H, W, 3]``, in the file's own pixel grid (``Rows x Columns``).

    Grey values are rescaled (modality LUT), then shown through ``window``, else the file's own VOI LUT or first window,
    else from the 0.5th to the 99.5th percentile of the pixels that are not padding. MONOCHROME1 is inverted, so that
    bright means more in every image. Palettes and YBR become RGB.

    Raises:
        ImageError: as `read_dataset`, too large, or compressed in a way that cannot be decoded here.
    """
    dataset = read_dataset(data)
    with _quietly("the DICOM file's display values make no sense"):
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        if rows * columns > max_pixels:
            raise ImageError(f"the image has {columns} x {rows} pixels, the limit is {max_pixels} in all")
        kind = str(dataset.get("PhotometricInterpretation", "")).upper()
        pixels = _pixels(dataset)
        if kind == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            return _colours(apply_color_lut(pixels, dataset))
        if pixels.ndim == 3 and pixels.shape[-1] == 3:
            return _colours(pixels)
        return grey_image(_shown(pixels, dataset, window, invert=kind == "MONOCHROME1"))


def has_burned_in_text(dataset: Dataset) -> bool:
    """Whether the file itself says that its pixels hold text such as the patient's name."""
    with _quietly("the DICOM file is damaged"):
        return str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"


def _pixels(dataset: Dataset) -> NDArray[Any]:
    try:
        with _quietly("the DICOM file's pixels are damaged"):
            return np.asarray(dataset.pixel_array)
    except ImageError as error:
        cause = error.__cause__
        if isinstance(cause, RuntimeError | NotImplementedError | ImportError):
            name = getattr(dataset.file_meta.TransferSyntaxUID, "name", "unknown")
            raise ImageError(
                f"no decoder for this DICOM compression ({name}) is installed; install pylibjpeg and its plugins, or "
                "export the image uncompressed"
            ) from None
        raise


def _shown(pixels: NDArray[Any], dataset: Dataset, window: Window | None, *, invert: bool) -> NDArray[np.uint8]:
    import highdicom.pixels
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    padding = _padding(pixels, dataset)
    values = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)
    shape = "LINEAR"
    if window is None and dataset.get("VOILUTSequence"):
        table = np.asarray(apply_voi_lut(values.astype(np.int64), dataset, prefer_lut=True))
        top = 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return to_8_bits(table, 0.0, float(top), invert=invert)
    if window is None:
        window = _own_window(dataset)
        shape = str(dataset.get("VOILUTFunction", "LINEAR")).upper()
    if window is None:
        low, high = spread(values, padding)
        return to_8_bits(values, low, high, invert=invert)
    form = shape if shape in _FORMS else "LINEAR"
    if form == "LINEAR" and window.width <= 1:  # PS3.3 C.11.2.1.2.1: a step
        return to_8_bits(values, window.centre - 0.5, window.centre - 0.5, invert=invert)
    shares = highdicom.pixels.apply_voi_window(values, window.centre, window.width, form)
    return to_8_bits(shares, 0.0, 1.0, invert=invert)


def _own_window(dataset: Dataset) -> Window | None:
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None:
        return None
    try:
        return Window(centre, width)
    except ValueError:
        return None


def _first(value: Any) -> float | None:
    """The first of one or several numbers; None where there is none."""
    if value is None or value == "":
        return None
    first = value[0] if not isinstance(value, str | int | float) and hasattr(value, "__getitem__") else value
    try:
        return float(first)
    except (TypeError, ValueError):
        return None


def _padding(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """``bool [H, W]``: stored values that stand for "no pixel here" (PS3.3 C.7.5.1.1.2)."""
    start = dataset.get("PixelPaddingValue")
    if not isinstance(start, int):
        return np.zeros(pixels.shape, dtype=np.bool_)
    end = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted([start, end if isinstance(end, int) else start])
    return np.asarray((pixels >= low) & (pixels <= high), dtype=np.bool_)


def _colours(pixels: NDArray[Any]) -> Image:
    if pixels.dtype.itemsize > 1:
        pixels = pixels >> (8 * (pixels.dtype.itemsize - 1))
    return np.ascontiguousarray(pixels[..., :3].astype(np.uint8))


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise ImageError("DICOM files need the extra 'medical': pip install 'int-backend[medical]'") from None
    return pydicom


@contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Pydicom's warnings and errors quote values of the file: none gets out, only their kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("the DICOM image does not fit into memory") from None
    except Exception as error:
        raise ImageError(f"{what} ({type(error).__name__}); export it again") from error
