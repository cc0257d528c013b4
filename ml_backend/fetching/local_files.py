"""Files below folders of this machine, which tasks name by ``/data/local-files/?d=``."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ml_backend.fetching.errors import FetchError, too_long

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def read_local_file(roots: Sequence[Path], name: str, max_bytes: int, *, hide: bool = False) -> bytes | None:
    """The file of that name below one of the roots (real paths); None if it is in none of them.

    Links may lead to other places below the same root. Raises ``FetchError`` where they lead out, for a name that
    climbs, and for what is no regular file or too long; with ``hide`` the message names no file.
    """
    if not name or not roots:
        return None
    shown = "a local file" if hide else f"the local file {name[:80]!r}"
    if "\0" in name or ".." in Path(name).parts:
        raise FetchError(f"{shown} leaves its folder; that is not allowed")
    for root in roots:
        try:
            path = (root / name.lstrip("/")).resolve()
        except (OSError, RuntimeError):  # links in a circle, by version of Python
            raise FetchError(f"{shown} cannot be read: its links lead in a circle") from None
        if not path.is_relative_to(root):
            raise FetchError(f"{shown} is a link out of {root}; that is not allowed")
        if path.is_file():
            return _read(root, path.relative_to(root), max_bytes, "a local file" if hide else path.name)
    return None


def _read(root: Path, below: Path, max_bytes: int, shown: str) -> bytes:
    """The file at a path without links, opened folder by folder: who swaps one of them for a link gets nowhere."""
    try:
        handle = os.open(root, _FOLDER)
        for part in below.parts[:-1]:
            handle = _step(handle, part, _FOLDER)
        with os.fdopen(_step(handle, below.name, _FILE), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FetchError(f"{shown} is not a regular file")
            if status.st_size > max_bytes:
                raise FetchError(too_long(shown, max_bytes))
            return file.read(max_bytes)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FetchError(f"{shown} cannot be read: its folder has become a link meanwhile") from None
        raise FetchError(f"{shown} cannot be read: {error.strerror or error}") from error


def _step(folder: int, name: str, how: int) -> int:
    """Open a name in an open folder, which is closed."""
    try:
        return os.open(name, how, dir_fd=folder)
    finally:
        os.close(folder)
