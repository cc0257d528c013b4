"""What a bootstrap run knows: results of images, and which files held them.

A file that lies there as it did is not read again; a renamed one is recognised by its content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from int_model.datasets.duplicates import perceptual_hash
from int_model.io.files import FileState, Source
from int_model.runner.results import StoredResult
from int_model.runner.store import ResultKey, ResultStore


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is kept of a file: ``digest`` SHA-256 of its bytes, size (H, W), perceptual hash; or the error."""

    path: Path
    state: FileState
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    phash: int = 0
    error: str = ""

    @classmethod
    def of(cls, source: Source) -> KnownFile:
        """Of a file that was read."""
        if source.image is None:
            return cls(source.path, source.state, source.digest, error=source.error)
        height, width = source.image.shape[:2]
        return cls(source.path, source.state, source.digest, (height, width), perceptual_hash(source.image))


class DatasetStore(ResultStore):
    """Results, and what is known of files; held by one run at a time."""

    def keep_files(self, files: Iterable[KnownFile]) -> None:
        """Keep what was read, all or none of it."""
        self.keep_notes({_name(f.path): [*astuple(f.state), f.digest, *f.size, f.phash, f.error] for f in files})

    def file(self, path: Path) -> KnownFile | None:
        """What is known of the file as it lies there now (always spelled alike by the caller).

        None if it is new or was changed.
        """
        told = self.note(_name(path))
        if told is None or FileState(*told[:2]) != FileState.of(path):
            return None
        size, mtime_ns, digest, height, width, phash, error = told
        return KnownFile(path, FileState(size, mtime_ns), digest, (height, width), phash, error)

    def result(self, key: ResultKey) -> StoredResult | str | None:
        """The result of an image, the error in one sentence, or None if it was not done."""
        entry = self.get(key)
        if entry is None:
            return None
        try:
            return entry.error or StoredResult.unpack(entry.payload)
        except ValueError as error:
            raise self._damaged(error) from error


def _name(path: Path) -> str:
    return f"file {path}"
