"""What a bootstrap run knows, in one SQLite file: every finished image is there whole or not at all.

Results are kept by the digest of the image's content and a key of everything that made them (models, strategy,
configuration, prompt). So a renamed image is not done again, and going back to earlier settings finds their results.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from int_model.datasets.records import Result
from int_model.datasets.sources import FileState, KnownFile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL,
  height INTEGER NOT NULL, width INTEGER NOT NULL, phash TEXT NOT NULL, error TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
  digest TEXT NOT NULL, key TEXT NOT NULL, failed INTEGER NOT NULL, result TEXT NOT NULL, PRIMARY KEY (digest, key)
);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_FORMAT = 1


class StoreError(RuntimeError):
    """The store cannot be used: another program has it, or it is damaged; the message names the cure."""


class Store:
    """The store in ``file``, held by one process at a time. Use as a context manager. Raises ``StoreError``.

    Each `save` is one transaction, on the disk when it returns (``synchronous = FULL``): a process or a machine that
    dies loses what was not saved yet, and nothing else.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._db = sqlite3.connect(file, isolation_level=None, timeout=1.0)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._check_format()
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                place = os.fsencode(file.parent.parent).decode("utf-8", "replace")
                raise StoreError(f"another run is working in '{place}'; wait for it, or choose another --out") from None
            raise StoreError(f"'{file}' cannot be written ({error}); check space and permissions") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(f"'{file}' is damaged ({error}); move it away to start anew") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def _check_format(self) -> None:
        found = self.note("format")
        if found is None:
            self.keep_note("format", _FORMAT)
        elif found != _FORMAT:
            raise StoreError(f"'{self._file}' was written by another version of this program; choose another --out")

    def save(self, files: Iterable[KnownFile], results: Mapping[tuple[str, str], Result]) -> None:
        """Keep files and results (by digest and key), all or none of them."""
        rows = [
            (_blob(f.path), f.state.size, f.state.mtime_ns, f.digest, *f.size, f"{f.phash:016x}", f.error)
            for f in files
        ]
        done = [(digest, key, bool(result.error), result.to_json()) for (digest, key), result in results.items()]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", done)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"'{self._file}' cannot be written ({error}); check space and permissions") from error
            raise

    def file(self, path: Path) -> KnownFile | None:
        """What is known of the file at that path (always spelled alike by the caller), as it was when it was read."""
        query = "SELECT size, mtime_ns, digest, height, width, phash, error FROM files WHERE path = ?"
        row = self._db.execute(query, (_blob(path),)).fetchone()
        if row is None:
            return None
        size, mtime_ns, digest, height, width, phash, error = row
        return KnownFile(path, FileState(size, mtime_ns), digest, (height, width), int(phash, 16), error)

    def result(self, digest: str, key: str) -> Result | None:
        """The result of that image and key, or None. Raises ``StoreError`` if it cannot be read."""
        query = "SELECT result FROM results WHERE digest = ? AND key = ?"
        row = self._db.execute(query, (digest, key)).fetchone()
        if row is None:
            return None
        try:
            return Result.from_json(row[0])
        except ValueError as error:
            raise StoreError(f"'{self._file}' is damaged ({error}); move it away to start anew") from error

    def state(self, digest: str, key: str) -> bool | None:
        """Whether that result is a failure; None if there is no result."""
        row = self._db.execute("SELECT failed FROM results WHERE digest = ? AND key = ?", (digest, key)).fetchone()
        return None if row is None else bool(row[0])

    def count(self, key: str) -> int:
        """How many images have a result of that key."""
        return int(self._db.execute("SELECT COUNT(*) FROM results WHERE key = ?", (key,)).fetchone()[0])

    def note(self, name: str) -> Any:
        """The JSON value that was kept under a name, or None."""
        row = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value, sort_keys=True)))


def _blob(path: Path) -> bytes:
    return os.fsencode(path)
