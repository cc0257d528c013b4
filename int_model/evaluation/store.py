"""Finished results on disk, one file each: written whole or not at all, so a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from int_model.evaluation.records import Record, record_from_dict, record_to_dict
from int_model.io.outputs import to_json, write_atomic

FORMAT = 1
"""Raised whenever stored figures would mean something else; older results are then made anew."""


def result_key(*parts: str | int) -> str:
    """32 hex digits that name a result by everything that it depends on."""
    text = json.dumps([FORMAT, *parts], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ResultStore:
    """A folder of results; ``folder`` None keeps nothing. Several processes may share a folder."""

    folder: Path | None

    def get(self, key: str) -> Record | None:
        """The finished result of that key; None if there is none, or its file is damaged."""
        if self.folder is None:
            return None
        try:
            record = record_from_dict(json.loads((self.folder / f"{_place(key)}.json").read_bytes()))
        except (OSError, ValueError):
            return None
        return record if record.key == key and record.done else None

    def put(self, record: Record, picture: bytes | None = None, page: str | None = None) -> Record:
        """Keep a finished result with its picture (JPEG) and page (HTML); returns it with their file names.

        The result's own file comes last, so what it names is there. Raises ``OSError``.
        """
        if self.folder is None or not record.done:
            return record
        place = _place(record.key)
        if picture is not None:
            write_atomic(self.folder / f"{place}.jpg", picture)
            record = replace(record, picture=f"{place}.jpg")
        if page is not None:
            write_atomic(self.folder / f"{place}.html", page.encode())
            record = replace(record, page=f"{place}.html")
        write_atomic(self.folder / f"{place}.json", to_json(record_to_dict(record, curves=True)))
        return record


def _place(key: str) -> str:
    return f"{key[:2]}/{key}"
