"""Lets so many tasks of an event loop through at a time, the most urgent first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ml_backend.serving.engine import Priority


@dataclass(slots=True)
class Ticket:
    """How urgent something is; may be changed while it waits."""

    priority: Priority


@dataclass(slots=True, eq=False)
class _Waiter:
    ticket: Ticket
    number: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turnstile:
    """At most ``places`` holders at once, and ``extra`` more that only interactive work may take."""

    def __init__(self, places: int, extra: int = 4) -> None:
        self._places = places
        self._extra = extra
        self._held = 0
        self._waiters: list[_Waiter] = []
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiters)

    @asynccontextmanager
    async def pass_through(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for a place, hold it inside the block."""
        await self._enter(ticket)
        try:
            yield
        finally:
            self._held -= 1
            self._admit()

    async def _enter(self, ticket: Ticket) -> None:
        waiter = _Waiter(ticket, next(self._numbers))
        self._waiters.append(waiter)
        self._admit()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.turn.cancelled():  # let in and cancelled in the same moment: the place goes back
                self._held -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiters:
            best = min(self._waiters, key=lambda w: (w.ticket.priority, w.number))
            room = self._places + (self._extra if best.ticket.priority == Priority.INTERACTIVE else 0)
            if self._held >= room:
                return
            self._waiters.remove(best)
            self._held += 1
            if best.turn.done():  # cancelled before its turn; its own handler does not give the place back
                self._held -= 1
            else:
                best.turn.set_result(None)
