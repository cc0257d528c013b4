"""Connections that send nothing, or never finish a request's head, must not keep others out.

Belongs here: how many connections are open and for how long before there is a request. Does not: bodies
(`ml_backend.api.bodies`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = logging.getLogger(__name__)
HEADER_SECONDS = 15.0
"""How long a connection may take until the head of its first or next request is complete."""

BACKLOG = 64
"""Connections that the system accepts in one go; as many descriptors may be needed beyond the limit."""

_SAY_AGAIN = 60.0
_MOST = 1000
_ENDS_BEFORE = "connections are at the limit of %d; those without a request are closed, the oldest first"


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for heads and a bounded number of connections.

    One connection too many closes the oldest of those that have no request yet, so that who sends nothing keeps nobody
    out. ``most`` and ``header_seconds`` are set in a subclass (`guarded`).
    """

    most = _MOST
    header_seconds = HEADER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = time.monotonic()
        self._head: asyncio.TimerHandle | None = None

    @property
    def without_request(self) -> bool:
        """Whether no request is being read or answered."""
        return self.conn.their_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most:
            _say_now_and_then(_ENDS_BEFORE, self.most)
            others = [one for one in self.connections if isinstance(one, GuardedProtocol) and one.without_request]
            oldest = min(others, key=lambda one: one._since, default=self)
            oldest.drop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once, without an answer."""
        self._forget()
        self.connections.discard(self)  # counted no more, though the loop tells us later
        if not self.transport.is_closing():
            self.transport.abort()

    def _watch(self) -> None:
        if not self.without_request:
            self._forget()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.header_seconds, self._late)

    def _late(self) -> None:
        self._head = None
        if self.without_request:
            self.drop()

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def guarded(most: int, header_seconds: float = HEADER_SECONDS) -> type[GuardedProtocol]:
    """The protocol with these limits, for ``uvicorn.Config(http=...)``."""
    return type("LimitedProtocol", (GuardedProtocol,), {"most": most, "header_seconds": header_seconds})


def most_connections() -> int:
    """As many connections as there are descriptors for, beside files and outgoing connections; at most 1000.

    The process's own limit is raised as far as the system lets it.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * _MOST if hard == resource.RLIM_INFINITY else min(hard, 4 * _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _MOST if soft == resource.RLIM_INFINITY else max(16, min(_MOST, (soft - BACKLOG) // 2))


def quiet_about_sockets(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop log once a minute, not thousands of times a second, that no connection can be accepted."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket.accept() out of system resource" in str(context.get("message")):
            _say_now_and_then("no connection can be accepted: %s; raise the limit of open files", context["exception"])
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


_said: dict[str, float] = {}


def _say_now_and_then(text: str, *values: object) -> None:
    if time.monotonic() - _said.get(text, -_SAY_AGAIN) >= _SAY_AGAIN:
        _said[text] = time.monotonic()
        _log.warning(text, *values)
