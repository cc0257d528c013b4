"""One image file, read once: its content's digest, its pixels and its perceptual hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from int_model.core.types import Image
from int_model.datasets.duplicates import perceptual_hash
from int_model.io.errors import MAX_BYTES, ImageError
from int_model.io.images import decode_image


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file was changed: its length, and its time in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The file's state; (-1, -1) if it cannot be asked for."""
        try:
            told = path.stat()
        except OSError:
            return cls(-1, -1)
        return cls(told.st_size, told.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the store keeps of a file: ``digest`` SHA-256 of its bytes, size (H, W), perceptual hash; or the error."""

    path: Path
    state: FileState
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    phash: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A file that was read; ``image`` is None exactly if ``known.error`` is set."""

    known: KnownFile
    image: Image | None


def read_source(path: Path) -> Source:
    """Read a file. Never raises for a file's sake: what is wrong with it is its error, in one sentence."""
    state = FileState.of(path)
    digest = ""
    try:
        if not path.is_file():
            raise ImageError("this is not a file; was it moved?")  # noqa: TRY301
        if state.size > MAX_BYTES:
            raise ImageError(f"the file has more than {MAX_BYTES} bytes; make it smaller")  # noqa: TRY301
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        image = decode_image(data)
    except ImageError as error:
        return Source(KnownFile(path, state, digest, error=str(error)), None)
    except OSError as error:
        reason = f"the file cannot be read ({error.strerror or error}); check its permissions"
        return Source(KnownFile(path, state, digest, error=reason), None)
    height, width = image.shape[:2]
    return Source(KnownFile(path, state, digest, (height, width), perceptual_hash(image)), image)
