"""Numbers as people read them; all of these are filters in templates."""

from __future__ import annotations

import math
from datetime import UTC, datetime

FILTERS = ("counted", "duration", "number", "percent", "significant", "utc")

_MISSING = "–"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for what is missing or not finite."""
    if value is None or not math.isfinite(value):
        return _MISSING
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def significant(value: float) -> str:
    """A number with two significant figures; a dash for what is not finite."""
    return f"{value:.2g}" if math.isfinite(value) else _MISSING


def percent(part: float) -> str:
    """A part of 1 in whole percent; never 0 % for more than nothing, nor 100 % for less than all."""
    if 0 < part < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < part < 1 else f"{number(100 * part, 0)} %"


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun: ``1 box``, ``2 boxes``; without ``many`` the plural ends in s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def duration(seconds: float | None) -> str:
    """Seconds for people, e.g. ``3 min``; "" for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 90 * 60:
        return f"{round(whole / 60)} min"
    if whole < 48 * 3600:
        return f"{whole / 3600:.1f} h"
    return f"{whole / 86400:.1f} days"


def utc(time: datetime) -> str:
    """A point in time to the minute, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
