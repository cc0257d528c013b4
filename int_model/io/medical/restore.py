"""Masks of pictures back into the grid and the format of the files that the pictures came from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from int_model.core.types import Mask
from int_model.io.medical.dicom import read_dataset
from int_model.io.medical.nifti import read_volume, to_volume
from int_model.io.medical.sources import Source

Masks = Mapping[str, Mask]
"""A picture's masks ``bool [H, W]`` by label."""

_SCHEME = "99INTB"
_LONGEST_CODE = 16


class NoSegmentationError(ValueError):
    """A DICOM file lacks what a DICOM segmentation refers to; a PNG label map is the way out."""


@dataclass(frozen=True, slots=True)
class Restored:
    """One file to be written: ``name`` ends in .dcm, .nii.gz, .tif or .png."""

    name: str
    data: bytes


def label_numbers(masks: Sequence[Masks]) -> dict[str, int]:
    """A number from 1 on for every label that occurs, in the order of their names.

    Raises ``ValueError`` for more than 255 labels.
    """
    names = sorted({label for entry in masks for label in entry})
    if len(names) > 255:
        raise ValueError(f"{len(names)} labels do not fit into a label map of 8 bits; restore fewer at a time")
    return {name: number for number, name in enumerate(names, start=1)}


def label_map(source: Source, masks: Masks, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
    """``uint8 [H, W]``: each pixel's label number, 0 for none. Where labels overlap, the smaller one is on top.

    Raises ``ValueError`` for a mask of another size than the picture.
    """
    out = np.zeros((source.height, source.width), dtype=np.uint8)
    for label in sorted(masks, key=lambda name: -int(masks[name].sum())):
        if masks[label].shape != out.shape:
            raise ValueError(f"picture {source.id} is {out.shape}, a mask of it is {masks[label].shape}")
        out[masks[label]] = numbers[label]
    return out


def to_png(source: Source, masks: Masks, numbers: Mapping[str, int]) -> Restored:
    """The label map as an 8-bit PNG."""
    buffer = io.BytesIO()
    PilImage.fromarray(label_map(source, masks, numbers)).save(buffer, format="PNG", optimize=True)
    return Restored(f"{source.id}.png", buffer.getvalue())


def to_native(
    sources: Sequence[Source], masks: Sequence[Masks], data: bytes, numbers: Mapping[str, int], *, reviewed: bool
) -> Restored:
    """All pictures of one file as a DICOM segmentation, a NIfTI label volume, a TIFF or a PNG label map.

    Args:
        sources: the pictures; all of the same file.
        masks: theirs, in the same order.
        data: the file's bytes.
        numbers: of the labels.
        reviewed: whether a person corrected or accepted the masks.

    Raises:
        ImageError: the file cannot be read.
        NoSegmentationError: a DICOM file lacks what a segmentation needs: a frame of reference, for instance.
        ValueError: a mask does not fit.
    """
    first = sources[0]
    if first.kind == "dicom":
        return Restored(f"{first.id}.seg.dcm", _dicom_seg(first, masks[0], data, numbers, reviewed=reviewed))
    if first.kind == "nifti":
        flat = {s.index or 0: label_map(s, m, numbers) for s, m in zip(sources, masks, strict=True)}
        volume = to_volume(read_volume(data), first.axis if first.axis is not None else 2, flat)
        import gzip

        return Restored(f"{first.sha256[:16]}.nii.gz", gzip.compress(volume.to_bytes(), mtime=0))
    if first.kind == "tiff":
        buffer = io.BytesIO()
        PilImage.fromarray(label_map(first, masks[0], numbers)).save(buffer, format="TIFF", compression="tiff_deflate")
        return Restored(f"{first.id}.tif", buffer.getvalue())
    return to_png(first, masks[0], numbers)


def _dicom_seg(source: Source, masks: Masks, data: bytes, numbers: Mapping[str, int], *, reviewed: bool) -> bytes:
    """A DICOM Segmentation (PS3.3 A.51), one binary segment a label, that refers to the image and its patient."""
    import highdicom as hd
    from pydicom.uid import generate_uid

    dataset = read_dataset(data)
    present = [label for label in sorted(masks, key=lambda name: numbers[name]) if masks[label].any()]
    if not present:
        raise ValueError(f"picture {source.id} has no mask; a DICOM segmentation needs one")
    label_map(source, masks, numbers)  # checks the sizes
    package = version("int-backend")
    kind = hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC if reviewed else hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    algorithm = hd.AlgorithmIdentificationSequence(
        name="int-backend", version=package, family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=place,
            segment_label=label[:64],
            segmented_property_category=hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
            segmented_property_type=hd.sr.CodedConcept(_code(label), _SCHEME, label[:64]),
            algorithm_type=kind,
            algorithm_identification=algorithm,
        )
        for place, label in enumerate(present, start=1)
    ]
    pixels = np.stack([masks[label] for label in present], axis=-1)[None].astype(np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of the file
            segmentation: Any = hd.seg.Segmentation(
                source_images=[dataset],
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                series_instance_uid=generate_uid(entropy_srcs=[source.sha256, "series"]),
                series_number=9000,
                sop_instance_uid=generate_uid(entropy_srcs=[source.sha256, *present, pixels.tobytes().hex()]),
                instance_number=1,
                manufacturer="int-backend",
                manufacturer_model_name="int-backend",
                software_versions=package,
                device_serial_number="0",
                omit_empty_frames=False,
            )
            buffer = io.BytesIO()
            segmentation.save_as(buffer)
    except Exception as error:  # noqa: BLE001 - highdicom raises many kinds, whose text may quote the patient's data
        raise NoSegmentationError(
            f"no DICOM segmentation can be made for picture {source.id}: its file lacks what that needs, such as a "
            f"frame of reference ({type(error).__name__})"
        ) from None
    return buffer.getvalue()


def _code(label: str) -> str:
    """A code value (at most 16 characters, PS3.5 SH) for a label of the user's own."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in label)[:_LONGEST_CODE]
    return plain or "label"
