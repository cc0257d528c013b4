"""Waiting for what other threads and processes do, and doing without programs that a machine may lack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Found = TypeVar("Found")


def until(true: Callable[[], object], what: str = "a condition", seconds: float = 60.0) -> None:
    """Return as soon as ``true()`` holds; fail after so many seconds."""
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"waited in vain: {what}"
        time.sleep(0.02)


def required(found: Found | None, message: str) -> Found:
    """What was looked for; without it the test is skipped, or fails where ``CI=true`` must not pass without it."""
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found
