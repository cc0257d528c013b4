"""Scans of JPEG files. Each costs a pass over the whole image, however few bytes it has (ITU-T T.81, B.2)."""

from __future__ import annotations

import re

MAX_SCANS = 64
"""Encoders write about ten; a file may hold thousands in a few kilobytes."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, 0xD8})


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG file has more than `MAX_SCANS`, read up to the end of its (first) image."""
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) is not None:
        kind, place = data[marker.start(1)], marker.end()
        if kind == _END:
            break
        if kind in _ALONE:
            continue
        scans += kind == _START_OF_SCAN
        if scans > MAX_SCANS:
            return True
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return False
