"""Text of strangers in logs and pages: one message is one line, of a length that people read, and not too many."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

LONGEST = 1000
"""Characters of a message."""

# Controls of both kinds, line and paragraph separators, and what turns the direction of writing or is not seen.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text cut to so many characters; those that are not seen as themselves are written out, as in Python."""
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
    return _UNSEEN.sub(_written_out, cut)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class LineFormatter(logging.Formatter):
    """One line for a message; the lines of a traceback below it begin with a bar."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 - the base class's name
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"  | {one_line(line)}" for line in text.splitlines())


class Throttle:
    """Lets so many messages through at once, and so many a second after that.

    Args:
        burst: at once.
        rate: per second.
        clock: seconds; for tests.
    """

    def __init__(self, burst: int = 100, rate: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left, self._seen = float(burst), clock()
        self._dropped = 0

    def admits(self) -> int | None:
        """None for a message too many; else how many were dropped since the last one that was not."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1.0:
            self._dropped += 1
            return None
        self._left -= 1.0
        dropped, self._dropped = self._dropped, 0
        return dropped
