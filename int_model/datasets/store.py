"""What a bootstrap run knows: results of images, and which files held them.

A file that lies there as it did is not read again; a renamed one is recognised by its content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
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
    """Results and files, held by one run at a time."""

    schema = f"""{ResultStore.schema}
CREATE TABLE IF NOT EXISTS files (
  path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL,
  height INTEGER NOT NULL, width INTEGER NOT NULL, phash TEXT NOT NULL, error TEXT NOT NULL
) WITHOUT ROWID;
"""

    def keep_files(self, files: Iterable[KnownFile]) -> None:
        """Keep what was read, all or none of it."""
        rows = [
            (os.fsencode(f.path), f.state.size, f.state.mtime_ns, f.digest, *f.size, f"{f.phash:016x}", f.error)
            for f in files
        ]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def file(self, path: Path) -> KnownFile | None:
        """What is known of the file as it lies there now (always spelled alike by the caller).

        None if it is new or was changed.
        """
        query = "SELECT size, mtime_ns, digest, height, width, phash, error FROM files WHERE path = ?"
        row = self._row(query, (os.fsencode(path),))
        if row is None or FileState(*row[:2]) != FileState.of(path):
            return None
        size, mtime_ns, digest, height, width, phash, error = row
        return KnownFile(path, FileState(size, mtime_ns), digest, (height, width), int(phash, 16), error)

    def result(self, key: ResultKey) -> StoredResult | str | None:
        """The result of an image, the error in one sentence, or None if it was not done."""
        entry = self.get(key)
        if entry is None:
            return None
        try:
            return entry.error or StoredResult.unpack(entry.payload)
        except ValueError as error:
            raise self._damaged(error) from error
