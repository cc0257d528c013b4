"""From medical files to pictures, with what is needed to find the way back."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from int_model.core.types import Image
from int_model.io.errors import MAX_BYTES, MAX_PIXELS, ImageError
from int_model.io.images import decode_image, note_on_pages, read_bytes
from int_model.io.medical.dicom import decode_dicom, has_burned_in_text, looks_like_dicom, read_dataset
from int_model.io.medical.nifti import looks_like_nifti, read_volume
from int_model.io.medical.tiff import decode_tiff, looks_like_tiff
from int_model.io.medical.windows import Window

_log = logging.getLogger(__name__)
_FORMAT = 1
Kind = Literal["dicom", "nifti", "tiff", "picture"]
_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
AXES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a picture came from. Holds no name and no path: the file is known by its bytes alone.

    Attributes:
        id: name of the picture, unique; letters, digits and hyphens.
        sha256: of the file's bytes.
        kind: ``dicom``, ``nifti``, ``tiff`` or ``picture`` (any other image format).
        height: rows of the picture and of its file's grid.
        width: columns.
        axis: for a slice of a volume, the canonical axis 0..2 it was cut along.
        index: for a slice, its place along the axis.
    """

    id: str
    sha256: str
    kind: Kind
    height: int
    width: int
    axis: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        # Ids and sums become names of files, and a mapping may come from elsewhere.
        if not _ID.fullmatch(self.id) or not _SHA256.fullmatch(self.sha256) or self.kind not in get_args(Kind):
            raise ValueError("a mapping's pictures have an id of letters, digits, hyphens, a SHA-256, a known kind")
        if min(self.height, self.width) < 1 or self.axis not in (None, 0, 1, 2):
            raise ValueError("a mapping's pictures have a height and a width of at least 1, and an axis from 0 to 2")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How medical files are shown.

    Attributes:
        window: for DICOM, NIfTI and TIFF; None for what the file says, else its own range.
        axis: volumes are cut along this canonical axis.
        every: take every n-th slice.
        burned_in: take images that say that text is burned into their pixels.
    """

    window: Window | None = None
    axis: int = 2
    every: int = 1
    burned_in: bool = False

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2) or self.every < 1:
            raise ValueError("axis is 0 (sagittal), 1 (coronal) or 2 (axial), every at least 1")


def kind_of(head: bytes, name: str) -> Kind:
    """The kind of a file from its first 512 bytes (and, for zipped NIfTI, its name)."""
    if looks_like_dicom(head):
        return "dicom"
    if looks_like_nifti(head, name):
        return "nifti"
    return "tiff" if looks_like_tiff(head) else "picture"


def read_pictures(
    path: Path,
    options: ReadOptions,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Source, Image]]:
    """The pictures in one file: one, or the slices of a volume. Slices of one value throughout are left out.

    ``note`` gets a sentence if a file that can be used holds more than what is taken.

    Raises:
        ImageError: the file cannot be used; the message holds neither its name nor anything that it says.
    """
    data = read_bytes(path, max_bytes)
    digest = hashlib.sha256(data).hexdigest()
    kind = kind_of(data[:512], path.name)
    if kind == "nifti":
        yield from _slices(data, digest, options)
        return
    if kind == "dicom":
        if has_burned_in_text(read_dataset(data)) and not options.burned_in:
            raise ImageError(
                "the file says that text (a name, perhaps) is burned into its pixels; look at it, and give "
                "--allow-burned-in if it may be shown"
            )
        image = decode_dicom(data, window=options.window, max_pixels=max_pixels)
    elif kind == "tiff":
        image = decode_tiff(data, window=options.window, max_pixels=max_pixels)
    else:
        image = decode_image(data, max_pixels=max_pixels)
    if told := note_on_pages(data):
        note(told)
    yield Source(digest[:16], digest, kind, image.shape[0], image.shape[1]), image


def _slices(data: bytes, digest: str, options: ReadOptions) -> Iterator[tuple[Source, Image]]:
    volume = read_volume(data, window=options.window)
    for index in range(0, volume.count(options.axis), options.every):
        image = volume.slice(options.axis, index)
        if image.min() == image.max():
            continue
        name = f"{digest[:16]}-{AXES[options.axis]}-{index:04d}"
        yield Source(name, digest, "nifti", image.shape[0], image.shape[1], options.axis, index), image


def find_sources(places: Sequence[Path], wanted: set[str], max_bytes: int = MAX_BYTES) -> dict[str, Path]:
    """The files below ``places`` that have the wanted SHA-256 sums."""
    found: dict[str, Path] = {}
    for path in files_below(places):
        if len(found) == len(wanted):
            break
        try:
            digest = hashlib.sha256(read_bytes(path, max_bytes)).hexdigest()
        except ImageError:
            continue
        if digest in wanted:
            found.setdefault(digest, path)
    return found


def files_below(places: Sequence[Path]) -> Iterator[Path]:
    """Every file of the places, folders with all that is below, sorted, hidden ones not.

    Links to folders are not followed. A folder that cannot be read is listed itself, so that reading it says so.

    Raises ``ValueError`` for a place that does not exist.
    """
    for place in places:
        if place.is_dir():
            yield from sorted(_below(place))
        elif place.is_file():
            yield place
        else:
            raise ValueError(f"there is no file or folder '{place}'; check its spelling")


def _below(folder: Path) -> Iterator[Path]:
    unreadable: list[OSError] = []
    for top, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(top) / name for name in files if not name.startswith("."))
    yield from (Path(error.filename) for error in unreadable)


def mapping_to_json(sources: Sequence[Source]) -> str:
    """The way back, as text for a file."""
    rows = [{key: value for key, value in asdict(source).items() if value is not None} for source in sources]
    return json.dumps({"format": _FORMAT, "pictures": rows}, indent=1) + "\n"


def mapping_from_json(text: str) -> dict[str, Source]:
    """The pictures' sources by id. Raises ``ValueError`` if the text is no mapping of ours."""
    try:
        content: Any = json.loads(text)
        if content["format"] != _FORMAT:
            raise ValueError(f"this mapping has format {content['format']}, this version reads format {_FORMAT}")
        found = [Source(**row) for row in content["pictures"]]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError("this is not a mapping that 'int-backend medical prepare' wrote") from None
    return {source.id: source for source in found}
