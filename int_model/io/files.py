"""Finding image files, and opening them: the one way from a path to pixels for every command."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_model.core.types import Image
from int_model.io.errors import ImageError
from int_model.io.images import decode_file, note_on_pages, read_bytes
from int_model.io.outputs import display_name

_RASTER = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .avif"
_MEDICAL = ".dcm .dicom"
SUFFIXES = frozenset(f"{_RASTER} {_MEDICAL}".split())
"""File name endings (lower case) that are taken from a folder. A file that is named itself may have any."""


def find_images(places: Sequence[Path], skip: Sequence[Path] = ()) -> list[Path]:
    """The image files that ``places`` name: files as they are, folders with everything below, sorted, hidden ones not.

    ``skip`` are folders that are left out, e.g. those that results are written to. A file is listed once. Links to
    folders are not followed. A folder that cannot be read is listed itself, so that reading it says what is wrong.
    Raises ``ValueError`` for a place that does not exist, one of ``skip``, or a folder without images.
    """
    skipped = {os.path.realpath(folder) for folder in skip}
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            if os.path.realpath(place) in skipped:
                raise ValueError(f"results would be written into '{display_name(place)}'; choose another --out")
            images = list(_in_folder(place, skipped))
            if not images:
                raise ValueError(f"the folder '{display_name(place)}' holds no image; images end in .jpg, .png, ...")
        elif place.exists():
            images = [place]
        else:
            raise ValueError(f"there is no file or folder '{display_name(place)}'; check its spelling")
        for image in images:
            found.setdefault(os.path.realpath(image), image)  # unlike Path.resolve it bears links in a circle
    return list(found.values())


def _in_folder(folder: Path, skipped: set[str]) -> Iterator[Path]:
    unreadable: list[OSError] = []
    for top, folders, files in os.walk(folder, onerror=unreadable.append):
        if os.path.realpath(top) in skipped:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(top) / name
    yield from (Path(error.filename) for error in unreadable)


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file was changed: its length in bytes, and its time in nanoseconds; -1 if unknown."""

    size: int = -1
    mtime_ns: int = -1

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The file's state. Raises nothing."""
        try:
            told = path.stat()
        except OSError:
            return cls()
        return cls(told.st_size, told.st_mtime_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A file that was read: ``image``, or ``error`` in one sentence; ``note`` says what of it was left out, or is "".

    ``digest`` is the SHA-256 of its bytes ("" if they could not be read), ``state`` what it was when it was read.
    """

    path: Path
    image: Image | None = None
    digest: str = ""
    state: FileState = FileState()
    error: str = ""
    note: str = ""


def read_source(path: Path) -> Source:
    """Read a file. Never raises for a file's sake: what is wrong with it is its error."""
    state, digest = FileState.of(path), ""
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        return Source(path, decode_file(data), digest, state, note=note_on_pages(data))
    except ImageError as error:
        return Source(path, None, digest, state, str(error))
