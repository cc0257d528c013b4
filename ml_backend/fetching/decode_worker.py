"""A process that turns fetched files into pixels, and may be ended at any moment: ``python -m`` this module.

It says when it is ready. Then it reads a head of two numbers (bytes of the file, most pixels), then the file; it
writes a line of JSON, then the pixels. Nobody but `ml_backend.fetching.decoding` talks to it. It ends when its input
does.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import BinaryIO

from int_model.io.errors import ImageError, TooLargeError
from int_model.io.images import decode_image, prepare

HEAD = struct.Struct("<QQ")
READY = b"ready\n"
_BYTES_PER_PIXEL = 24  # grey values of 16 bits and transparency take copies of up to 8 bytes each
_REST = 3 << 30


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the source ends."""
    prepare()
    sink.write(READY)
    sink.flush()
    while len(head := source.read(HEAD.size)) == HEAD.size:
        length, max_pixels = HEAD.unpack(head)
        _limit_memory(max_pixels * _BYTES_PER_PIXEL + _REST)
        _answer(source.read(length), max_pixels, sink)


def _answer(data: bytes, max_pixels: int, sink: BinaryIO) -> None:
    """Of one file; what it took is free again afterwards, as the next one may come in hours."""
    answer: dict[str, object]
    content = memoryview(b"")
    try:
        pixels = decode_image(data, max_pixels=max_pixels)
        answer, content = {"size": pixels.shape[:2]}, pixels.data.cast("B")
    except ImageError as error:
        answer = {"error": str(error), "large": isinstance(error, TooLargeError)}
    except MemoryError:
        answer = {"error": "the image needs too much memory; make it smaller", "large": False}
    sink.write(json.dumps(answer).encode() + b"\n")
    sink.write(content)
    sink.flush()


def _limit_memory(most: int) -> None:
    """Let this process have no more addresses than that, where the system knows such a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
