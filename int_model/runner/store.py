"""Finished results in one SQLite file: each is there whole or not at all, so a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from int_model.io.outputs import display_name

FORMAT = 2
"""Raised whenever what is stored would mean something else; files of another format are refused."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
  image TEXT NOT NULL, prompt TEXT NOT NULL, identity TEXT NOT NULL, payload BLOB NOT NULL, error TEXT NOT NULL,
  PRIMARY KEY (image, prompt, identity)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_OF_KEY = "FROM results WHERE image = ? AND prompt = ? AND identity = ?"


class StoreError(RuntimeError):
    """The store cannot be used: another program has it, or it is damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ResultKey:
    """What names a result.

    Attributes:
        image: digest of the image's content.
        prompt: text of the task prompt.
        identity: fingerprint of everything else that the result depends on: models, strategy, configuration, seed.
    """

    image: str
    prompt: str
    identity: str

    @property
    def name(self) -> str:
        """32 hex digits for names of files."""
        return fingerprint(self.image, self.prompt, self.identity)


def fingerprint(*parts: str | int) -> str:
    """32 hex digits that change with any of the parts."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a key: the result, packed, or the error in one sentence."""

    payload: bytes = b""
    error: str = ""


class ResultStore:
    """Results by key, and notes by name. Use as a context manager.

    What is put is on the disk when `put` returns (``synchronous = FULL``): a process or a machine that dies loses what
    was not put yet, and nothing else.

    Args:
        file: made if it is not there, with its folder; None keeps everything in memory.
        shared: whether several processes may use the file at once; else it is held by one.

    Every method may raise `StoreError`.
    """

    def __init__(self, file: Path | None, *, shared: bool = False) -> None:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._db = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=60.0 if shared else 1.0)
        try:
            with self._told():
                if not shared:
                    # The lock comes before the mode: in the mode, two that wait both keep what the other one needs.
                    self._db.execute("BEGIN EXCLUSIVE")
                    self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                    self._db.execute("COMMIT")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._check_format()
        except StoreError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def put(self, entries: Mapping[ResultKey, Entry]) -> None:
        """Insert or replace, all or none of them."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)",
                [(*_columns(key), entry.payload, _text(entry.error)) for key, entry in entries.items()],
            )

    def get(self, key: ResultKey) -> Entry | None:
        """What is kept under a key, or None."""
        row = self._row(f"SELECT payload, error {_OF_KEY}", _columns(key))
        return None if row is None else Entry(bytes(row[0]), row[1])

    def failed(self, key: ResultKey) -> bool | None:
        """Whether an error is kept under a key; None if nothing is. The result is not read."""
        row = self._row(f"SELECT error != '' {_OF_KEY}", _columns(key))
        return None if row is None else bool(row[0])

    def note(self, name: str) -> Any:
        """The JSON value that was kept under a name, or None."""
        row = self._row("SELECT value FROM notes WHERE name = ?", (_text(name),))
        return None if row is None else json.loads(row[0])

    def keep_notes(self, notes: Mapping[str, Any]) -> None:
        """Keep JSON values under names, all or none of them."""
        rows = [(_text(name), json.dumps(value, sort_keys=True)) for name, value in notes.items()]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", rows)

    def _check_format(self) -> None:
        found = self.note("format")
        if found is None:
            self.keep_notes({"format": FORMAT})
        elif found != FORMAT:
            raise StoreError(f"'{self._place}' was written by another version of this program; choose another --out")

    def _row(self, query: str, values: Iterable[Any]) -> Any:
        with self._told():
            return self._db.execute(query, tuple(values)).fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                place = "memory" if self._file is None else display_name(self._file.parent.parent)
                raise StoreError(f"another run is working in '{place}'; wait for it, or choose another --out") from None
            raise StoreError(f"'{self._place}' cannot be used ({error}); check space and permissions") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"'{self._place}' is damaged ({error}); move it away to start anew")

    @property
    def _place(self) -> str:
        return display_name(self._file or "")


def _columns(key: ResultKey) -> tuple[str, str, str]:
    return key.image, _text(key.prompt), key.identity


def _text(text: str) -> str:
    """What SQLite takes: arguments of a command line may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
