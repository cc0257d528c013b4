"""One flat file name per image of a folder tree, readable, unique, and the same on every run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# What file systems, shells, URLs or lists would stumble over.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\s%#&]+')
_MAX_BYTES = 120
_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


def common_root(places: Sequence[Path]) -> Path:
    """The deepest folder that holds all places (folders count themselves), resolved; names are relative to it.

    It depends on what was asked for, not on which images are there, so that names stay when images come.
    """
    folders = [place.resolve() if place.is_dir() else place.resolve().parent for place in places]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # different drives
        return Path(folders[0].anchor)


def relative_name(path: Path, root: Path) -> str:
    """The path below ``root`` with forward slashes, as printable text."""
    absolute = path.absolute()
    below = absolute.relative_to(root) if absolute.is_relative_to(root) else absolute
    return os.fsencode(below.as_posix()).decode("utf-8", "replace")


def flat_names(relative: Sequence[str], digests: Sequence[str]) -> list[str]:
    """A file stem per image: its relative path without the ending, folders joined by ``-``.

    Names differ when case is ignored. Where two would be equal, all but the first get the start of their digest, and
    a number if even that is taken.
    """
    taken: set[str] = set()
    names = []
    for path, digest in zip(relative, digests, strict=True):
        plain = _safe(path)
        name, number = plain, 1
        while name.casefold() in taken:
            name = f"{plain}-{digest[:8]}" if number == 1 else f"{plain}-{digest[:8]}-{number}"
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _safe(path: str) -> str:
    folders, _, file = path.rpartition("/")
    stem = Path(file).stem
    parts = [_FORBIDDEN.sub("_", part).strip(" .") for part in (*folders.split("/"), stem)]
    text = "-".join(part for part in parts if part)
    while len(text.encode()) > _MAX_BYTES:  # the end tells more than the top folder
        text = text[1:]
    if not text or text.split(".")[0].casefold() in _DEVICE_NAMES:
        text = f"image-{text}".rstrip("-")
    return text
