"""Masks of pictures back into the grid and the format of the files that the pictures came from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from int_model.core.types import Mask
from int_model.io.images import read_bytes
from int_model.io.medical.dicom import read_dataset
from int_model.io.medical.nifti import read_volume, to_volume
from int_model.io.medical.sources import Source, find_sources
from int_model.io.outputs import write_atomic

Masks = Mapping[str, Mask]
"""A picture's masks ``bool [H, W]`` by label."""

_SCHEME = "99INTB"
_LONGEST_CODE, _LONGEST_LABEL = 16, 64


@dataclass(frozen=True, slots=True)
class PictureMasks:
    """What is known of one picture: masks ``bool [H, W]`` by label, and whether a person made or accepted them."""

    masks: Masks = field(default_factory=dict)
    reviewed: bool = False


class NoSegmentationError(ValueError):
    """A DICOM file lacks what a DICOM segmentation refers to; a PNG label map is the way out."""


@dataclass(frozen=True, slots=True)
class Restored:
    """One file to be written: ``name`` ends in .dcm, .nii.gz, .tif or .png."""

    name: str
    data: bytes


def restore(
    answers: Mapping[str, PictureMasks],
    mapping: Mapping[str, Source],
    places: Sequence[Path],
    out: Path,
    *,
    native: bool,
    tell: Callable[[str], None],
) -> int:
    """Write masks in the pixel grid of the files that the pictures came from; returns how many files.

    Args:
        answers: by the picture's id.
        mapping: where each picture came from.
        places: files, or folders with everything below, in which the originals are.
        out: the folder to write to; ``labels.json`` in it says which number is which label.
        native: make DICOM segmentations (PNG where the file lacks what they need), NIfTI label volumes and TIFF label
            maps; else every picture gets a PNG label map.
        tell: gets a line for each picture or file that is left out.

    Raises:
        ValueError: there is no answer, or none of the files is found.
    """
    if not answers:
        raise ValueError("the export holds no annotated picture of this mapping; is it the right export and mapping?")
    numbers = label_numbers([answer.masks for answer in answers.values()])
    out.mkdir(parents=True, exist_ok=True)
    chosen = sorted((mapping[name] for name in answers), key=lambda source: (source.sha256, source.id))
    if native:
        files = _native_files(chosen, answers, places, numbers, tell)
    else:
        files = (to_png(source, answers[source.id].masks, numbers) for source in chosen)
    written = 0
    for restored in files:
        write_atomic(out / restored.name, restored.data)
        written += 1
    write_atomic(
        out / "labels.json", json.dumps(numbers, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    )
    return written


def _native_files(
    chosen: Sequence[Source],
    answers: Mapping[str, PictureMasks],
    places: Sequence[Path],
    numbers: Mapping[str, int],
    tell: Callable[[str], None],
) -> Iterator[Restored]:
    """The pictures of each original as a file of its kind; ``chosen`` is sorted by the originals."""
    paths = find_sources(places, {source.sha256 for source in chosen})
    if not paths:
        raise ValueError("none of the files that the pictures came from is there; name their folder with --sources")
    for digest, group in groupby(chosen, key=lambda source: source.sha256):
        sources = list(group)
        if digest not in paths:
            tell(f"left out: the file of picture {sources[0].id} is not below --sources")
            continue
        found = [answers[source.id] for source in sources]
        masks = [answer.masks for answer in found]
        if sources[0].kind == "dicom" and not any(mask.any() for entry in masks for mask in entry.values()):
            tell(f"nothing to write: picture {sources[0].id} has no mask")
            continue
        try:
            reviewed = all(answer.reviewed for answer in found)
            yield to_native(sources, masks, read_bytes(paths[digest]), numbers, reviewed=reviewed)
        except NoSegmentationError as error:
            tell(f"{error}; its masks are written as PNG")
            yield from (to_png(source, answers[source.id].masks, numbers) for source in sources)
        except ValueError as error:
            tell(f"left out: {error}")


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
            segment_label=_text(label),
            segmented_property_category=hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
            segmented_property_type=hd.sr.CodedConcept(_code(label), _SCHEME, _text(label)),
            algorithm_type=kind,
            algorithm_identification=algorithm,
        )
        for place, label in enumerate(present, start=1)
    ]
    pixels = np.stack([masks[label] for label in present], axis=-1)[None].astype(np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of the file
            dataset.decode()
            dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: the file's own set may lack a label's letters
            segmentation: Any = hd.seg.Segmentation(
                source_images=[dataset],
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                series_instance_uid=generate_uid(entropy_srcs=[source.sha256, "series"]),
                series_number=9000,
                sop_instance_uid=generate_uid(
                    entropy_srcs=[source.sha256, *map(ascii, present), pixels.tobytes().hex()]
                ),
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


def _text(label: str) -> str:
    """A label as DICOM says it (PS3.5 LO): 1 to 64 characters, no backslash, which parts values, no control character.

    Lone surrogates, which UTF-8 has no bytes for, become question marks.
    """
    known = label.encode("utf-8", "replace").decode()
    plain = "".join(c if c.isprintable() and c != "\\" else "_" for c in known)
    return plain[:_LONGEST_LABEL].strip() or "object"


def _code(label: str) -> str:
    """A code value (at most 16 characters, PS3.5 SH) for a label of the user's own.

    Labels that differ in more than ASCII punctuation have different codes.
    """
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in label)
    if not label.isascii() or len(label) > _LONGEST_CODE:
        digest = hashlib.sha256(label.encode("utf-8", "replace")).hexdigest()[:8]
        plain = f"{plain[: _LONGEST_CODE - 9]}_{digest}"
    return plain or "label"
