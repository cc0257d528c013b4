"""Bodies of requests, within bounds: bytes of one and of all together, and values, before anything is built of them.

Python's JSON parser holds the interpreter from its first byte to its last, and an empty list costs thirty times the
bytes that say it. So a long body is first looked through token by token, in one thread that yields to the event loop;
what nobody reads of it is left out, and what remains is parsed only if it is small enough.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ml_backend.labelstudio.wire import RequestError

_BODY_SECONDS = 60.0
_INLINE_BYTES = 64 * 1024
_SLICE = 1 << 20
_MAX_DEPTH = 200
_MAX_TOKENS = 2_000_000
_MAX_CONTAINERS = 400_000
_MAX_ITEMS = 3_000_000
_MAX_WIDE = 32 * _SLICE
"""Bytes of a body with characters beyond ASCII, each of which may cost four; programs escape them."""

_TOKEN = re.compile(rb'[^"\[\]{}]{0,1000000}+("[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]|)', re.DOTALL)
"""What lies before a text, list or object, and that; nothing at the end, and after each million of bytes in between, as
the search holds the interpreter."""
_UNREAD = frozenset({b'"annotations"', b'"predictions"', b'"drafts"'})
_TASKS = b'"tasks"'
_LONGEST_NAME = 20


class TooLargeError(ValueError):
    """The body is larger than allowed."""


class TooMuchError(Exception):
    """Other requests' bodies fill what may be read at a time."""


@dataclass(slots=True)
class Budget:
    """Bytes of bodies that may be in memory at a time; for one event loop."""

    most: int
    used: int = 0


@dataclass(slots=True)
class _Claim:
    """One request's share of a budget."""

    budget: Budget
    count: int = 0

    def change(self, count: int) -> None:
        """Claim that many bytes in place of those before. Raises ``TooMuchError`` where they are not free."""
        if count > self.count and self.budget.used - self.count + count > self.budget.most:
            raise TooMuchError(f"bodies of {self.budget.used} bytes are being read already")
        self.budget.used += count - self.count
        self.count = count


@dataclass(frozen=True, slots=True)
class Bodies:
    """Reads JSON bodies; for one event loop.

    Attributes:
        budget: shared by all requests.
        parser: one thread, so that not two bodies at once keep the interpreter from the event loop.
    """

    budget: Budget
    parser: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="json"))

    @asynccontextmanager
    async def read(self, request: Request, max_bytes: int) -> AsyncIterator[Any]:
        """The request's JSON, which counts against the budget while the block lasts.

        In the tasks of a list ``tasks``, containers under ``annotations``, ``predictions`` and ``drafts`` are None.

        Raises:
            RequestError: no JSON, or it did not arrive in a minute.
            TooLargeError: longer than ``max_bytes``, or of too many values.
            TooMuchError: too much is being read at this moment.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise TooLargeError(f"the body has {length} bytes")
        claim = _Claim(self.budget)
        try:
            yield await self._content(request, max_bytes, claim)
        finally:
            claim.change(0)

    async def _content(self, request: Request, max_bytes: int, claim: _Claim) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > max_bytes:
                        raise TooLargeError(f"the body has more than {max_bytes} bytes")
                    claim.change(len(body) + len(chunk))
                    body += chunk
        except TimeoutError:
            raise RequestError(f"the body did not arrive within {_BODY_SECONDS:g} s") from None
        except ClientDisconnect:
            raise RequestError("the connection was closed before the body was complete") from None
        if len(body) <= _INLINE_BYTES:
            return _loads(body)
        kept, content = await asyncio.get_running_loop().run_in_executor(self.parser, parse, body)
        claim.change(kept)
        return content


def parse(body: bytearray) -> tuple[int, Any]:
    """A JSON text of any length, without what is never read of tasks; at most some 0.2 s without the event loop.

    Returns how many bytes were kept, and what they say.

    Raises:
        RequestError: it is no JSON.
        TooLargeError: it holds too many values.
    """
    kept, containers = _kept(body)
    items = sum(kept.count(b",", start, start + _SLICE) for start in range(0, len(kept), _SLICE))
    if containers > _MAX_CONTAINERS or items > _MAX_ITEMS:
        raise TooLargeError(f"the body holds more than {_MAX_CONTAINERS} lists and objects, or {_MAX_ITEMS} values")
    if len(kept) > _MAX_WIDE and not kept.isascii():
        raise TooLargeError(f"the body has more than {_MAX_WIDE} bytes, and characters beyond ASCII; escape those")
    return len(kept), _loads(kept)


def _kept(body: bytearray) -> tuple[bytearray, int]:
    """The text without what is never read, and how many lists and objects are in it."""
    depth = tokens = containers = kept_until = 0
    tasks = unread = False
    skipped: tuple[int, int] | None = None  # where it begins, and how deep that is
    pieces: list[memoryview | bytes] = []
    view = memoryview(body)
    for token in _TOKEN.finditer(body):
        start, end = token.span(1)
        if start == end:
            continue
        tokens += 1
        if tokens > _MAX_TOKENS:
            raise TooLargeError(f"the body holds more than {_MAX_TOKENS} texts, lists and objects")
        sign = body[start]
        if sign in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise RequestError(f"the body is not valid JSON of at most {_MAX_DEPTH} levels")
            if skipped is None:
                containers += 1
                if unread:
                    skipped = (start, depth)
            unread = False
        elif sign in b"]}":
            if skipped is not None and skipped[1] == depth:
                pieces += [view[kept_until : skipped[0]], b"null"]
                kept_until, skipped = end, None
            depth -= 1
            unread = False
        elif skipped is None and depth in (1, 3):
            name = bytes(view[start:end]) if end - start < _LONGEST_NAME else b""
            if depth == 1:
                tasks = name == _TASKS
            unread = depth == 3 and tasks and name in _UNREAD
    pieces.append(view[kept_until:])
    return (bytearray().join(pieces) if len(pieces) > 1 else body), containers


def _loads(body: bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON ({type(error).__name__})") from None
