"""Servers that a download must survive: endless, slow, lying, short, compressed, garbage."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from itertools import repeat

from tests.support.http_server import Raw, by_path

_OK = b"HTTP/1.1 200 OK\r\n"


def _endless() -> Raw:
    def chunks() -> Iterator[bytes]:
        yield _OK + b"\r\n"
        yield from repeat(b"x" * 65536, 10_000)

    return Raw(chunks())


def _slowly(head: bytes, letter: bytes) -> Raw:
    """A letter every 50 ms, for ten seconds."""

    def chunks() -> Iterator[bytes]:
        yield head
        for _ in range(200):
            yield letter
            time.sleep(0.05)

    return Raw(chunks())


def _bomb() -> Raw:
    packed = gzip.compress(bytes(50_000_000), 9)
    return Raw([_OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed])


misbehave = by_path(
    {
        "/endless": _endless,
        "/slow": lambda: _slowly(_OK + b"\r\n", b"x"),
        "/slow-head": lambda: _slowly(b"", b"H"),
        "/lying": Raw([_OK + b"Content-Length: 1000000000000\r\n\r\n"]),
        "/short": Raw([_OK + b"Content-Length: 100\r\n\r\n0123456789"]),
        "/gzip": _bomb,
        "/head": Raw([_OK + b"X: " + b"y" * 5_000_000 + b"\r\n\r\n"]),
        "/not-http": Raw([b"SSH-2.0-OpenSSH_9.2\r\n"]),
    }
)
