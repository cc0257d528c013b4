"""Bodies of requests, within bounds: bytes of one and of all together, and values, before anything is built of them.

An empty list costs thirty times the bytes that say it. So a long body is first looked through, and parsed only if it is
small enough, piece by piece (`ml_backend.json_pieces`), in one thread that yields to the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ml_backend.json_pieces import TooLargeError, parse
from ml_backend.labelstudio.wire import RequestError

_BODY_SECONDS = 60.0
_INLINE_BYTES = 64 * 1024


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


def _loads(body: bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON ({type(error).__name__})") from None
