"""Tables of a data set for spreadsheets (splits, abstentions, failures), and its images as hard links or copies."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from int_model.datasets.contents import Failure, Item

ImagesMode = Literal["link", "copy", "none"]


class _Rows(Protocol):
    def writerow(self, row: Iterable[Any], /) -> Any: ...

    def writerows(self, rows: Iterable[Iterable[Any]], /) -> None: ...


class ListWriter:
    """Writes ``splits.csv`` (every image), ``abstained.csv`` (every label not found in an image) and ``failed.csv``."""

    def __init__(self, folder: Path, failures: Sequence[Failure]) -> None:
        self._files: list[IO[str]] = []
        self._splits = self._table(
            folder / "splits.csv",
            ["image", "split", "file", "duplicate_group", "width", "height", "objects", "lowest_score", "sha256"],
        )
        self._abstained = self._table(
            folder / "abstained.csv", ["image", "split", "label", "prompt", "reason", "image_without_objects"]
        )
        failed = self._table(folder / "failed.csv", ["image", "reason"])
        failed.writerows([failure.relative, failure.error] for failure in failures)

    def add(self, item: Item) -> None:
        """Write one image's rows."""
        entry = item.entry
        lowest = f"{item.doubt:.6f}" if item.objects else ""
        self._splits.writerow(
            [
                entry.relative,
                entry.split,
                f"{entry.split}/{entry.file_name}",
                entry.group,
                entry.size[1],
                entry.size[0],
                len(item.objects),
                lowest,
                entry.digest,
            ]
        )
        negative = "no" if item.objects else "yes"
        for told in item.abstentions:
            self._abstained.writerow([entry.relative, entry.split, told.label, told.prompt, told.reason, negative])

    def close(self) -> None:
        """Finish the tables."""
        for file in self._files:
            file.close()

    def _table(self, place: Path, head: list[str]) -> _Rows:
        file = place.open("w", encoding="utf-8", errors="replace", newline="")
        self._files.append(file)
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(head)
        return rows


class ImagesWriter:
    """Puts the images below ``images/<split>/``: ``link`` makes hard links, ``copy`` copies.

    Symbolic links would lead out of the folder, which loaders of data sets refuse. Where no hard link can be made, on
    another file system for instance, ``link`` copies.
    """

    def __init__(self, folder: Path, splits: Sequence[str], mode: Literal["link", "copy"]) -> None:
        self._folder, self._mode = folder / "images", mode
        for split in splits:
            (self._folder / split).mkdir(parents=True, exist_ok=True)

    def add(self, item: Item) -> None:
        """Put one image there. Raises ``OSError`` if the image is gone, or the disk full."""
        source, place = os.path.realpath(item.entry.path), self._folder / item.entry.split / item.entry.file_name
        if self._mode == "link":
            try:
                os.link(source, place)
            except OSError:
                pass  # another file system, or one without such links
            else:
                return
        shutil.copyfile(source, place)

    def close(self) -> None:
        """Nothing waits."""
