"""When to try again what may work later: one policy for all waiting."""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import RetryCallState
from tenacity.wait import wait_base

TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
"""HTTP answers after which the same request may succeed."""

_MOST_ASKED = 30.0


class Backoff(wait_base):
    """Delays between attempts that grow exponentially, with full jitter: many who wait do not come back together.

    Each delay is drawn evenly from 0 up to a bound; the bound begins at ``first`` and is multiplied by ``factor`` until
    it is ``longest``. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. One loop of
    attempts has one object; tenacity's ``wait=`` takes it.

    Args:
        first: the first bound in seconds.
        longest: the largest bound in seconds.
        factor: growth from one bound to the next.
        draw: a number in ``[0, 1)``; for tests.
    """

    def __init__(
        self,
        first: float = 1.0,
        longest: float = 30.0,
        *,
        factor: float = 2.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._longest = longest
        self._factor = factor
        self._draw = draw
        self._bound = first

    def delay(self, asked: float | None = None) -> float:
        """Seconds until the next attempt: what the other side ``asked`` for, else the next drawn delay."""
        bound, self._bound = self._bound, min(self._bound * self._factor, self._longest)
        return bound * self._draw() if asked is None else asked

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._bound = self._first

    def __call__(self, retry_state: RetryCallState) -> float:
        """As tenacity asks; an error's ``retry_after`` is what the other side asked for."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        return self.delay(getattr(error, "retry_after", None))


def retry_after(header: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, between 0 and 30; None where there is none that is a number."""
    try:
        wanted = float(header) if header is not None else float("nan")
    except ValueError:
        return None
    return min(max(wanted, 0.0), _MOST_ASKED) if wanted == wanted else None
