"""One pass over the images, through all writers, into a new folder that then takes the place of the old results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from int_model.datasets.contents import Item
from int_model.io.outputs import display_name, prepare_folder, to_json, write_atomic

WORK = ".bootstrap"
"""The folder inside the output that holds the store and what is being written; it marks the output as ours."""

_STAGING, _PRODUCTS = "staging", "products.json"


class Writer(Protocol):
    """One format: takes one image at a time."""

    def add(self, item: Item) -> None:
        """Write what belongs to one image."""
        ...

    def close(self) -> None:
        """Finish; called once, after the last image."""
        ...


def prepare_output(out: Path) -> Path:
    """Make the output folder, or take an earlier one; returns its working folder.

    Raises ``ValueError`` for a folder that holds other things, or that cannot be made.
    """
    work = out / WORK
    prepare_folder(out)
    if not work.is_dir() and any(out.iterdir()):
        raise ValueError(f"'{display_name(out)}' holds other files; choose an empty or new folder for --out")
    prepare_folder(work)
    return work


def export(
    out: Path,
    items: Iterable[Item],
    make_writers: Callable[[Path], Sequence[Writer]],
    finish: Callable[[Path], None] | None = None,
    progress: Callable[[Item], None] | None = None,
) -> list[str]:
    """Write all formats and put them in place; returns the names of what now lies in ``out``.

    Everything is written into a staging folder first. Only then the results of an earlier export are replaced, those
    that were not made this time removed; other files are never touched. A run that dies before has changed nothing,
    one that dies while replacing is mended by the next.

    Args:
        out: prepared by `prepare_output`.
        items: the images.
        make_writers: opens the writers below the folder it is given.
        finish: writes what needs all images, e.g. the data card, into that folder.
        progress: called after each image.

    Raises:
        ValueError: a file that this program did not make lies where a result goes.
        OSError: the disk is full, or the folder cannot be written.
    """
    work = out / WORK
    staging = work / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    writers = make_writers(staging)
    for item in items:
        for writer in writers:
            writer.add(item)
        if progress is not None:
            progress(item)
    for writer in writers:
        writer.close()
    if finish is not None:
        finish(staging)
    return _put_in_place(out, staging, work / _PRODUCTS)


def _put_in_place(out: Path, staging: Path, note: Path) -> list[str]:
    fresh = sorted(entry.name for entry in staging.iterdir())
    try:
        own = set(json.loads(note.read_bytes()))
    except (OSError, ValueError):
        own = set()
    foreign = [name for name in fresh if name not in own and _there(out / name)]
    if foreign:
        raise ValueError(f"'{display_name(out / foreign[0])}' was not made by this program; move it away")
    write_atomic(note, to_json(sorted(own | set(fresh))))
    for name in sorted(own):
        _remove(out / name)
    for name in fresh:
        (staging / name).rename(out / name)
    write_atomic(note, to_json(fresh))
    staging.rmdir()
    return fresh


def _there(place: Path) -> bool:
    return place.exists() or place.is_symlink()


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
