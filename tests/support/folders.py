"""Folders as a test needs them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def refuse_to_list(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As if the folder's permissions forbade it: those of the file system do not bind root."""
    listed = os.scandir

    def scandir(place: Any = ".") -> Any:
        if Path(place).resolve() == folder.resolve():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
