"""Waiting for a database that is away: commands that look at runs wait for it as workers do, and say so once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ml_backend.backoff import Backoff
from ml_backend.settings import Settings
from ml_backend.storage.database import Database, StoreError

T = TypeVar("T")
_LOOK_SECONDS = 60.0
_STEP = 0.2


def outlast(
    function: Callable[[], T],
    tell: Callable[[str], None],
    *,
    seconds: float = float("inf"),
    stopping: Callable[[], bool] = lambda: False,
) -> T:
    """What the function returns; called again for so long while it raises a transient ``StoreError``. Blocking.

    Args:
        function: may be called again after it has failed.
        tell: gets one line when the waiting begins and one when it is over.
        seconds: after which the error is raised.
        stopping: asked all the time; if it says so, the error is raised.
    """
    backoff, since = Backoff(0.5, 4.0), time.monotonic()
    waiting = False
    while True:
        try:
            found = function()
        except StoreError as error:
            if not error.transient or time.monotonic() - since > seconds:
                raise
            if not waiting:
                tell(f"{error}; waiting for it")
            waiting = True
            until = time.monotonic() + max(_STEP, backoff.delay())
            while time.monotonic() < until:
                if stopping():
                    raise
                time.sleep(_STEP)
        else:
            if waiting:
                tell(f"the database is back after {time.monotonic() - since:.0f} s")
            return found


def wait_for_database(
    settings: Settings, tell: Callable[[str], None], *, stopping: Callable[[], bool] = lambda: False
) -> None:
    """Return as soon as the settings' database can be used; its tables are of this version then.

    Raises:
        StoreError: waiting does not help, or ``stopping`` said so.
    """
    outlast(lambda: Database.of(settings), tell, stopping=stopping).close()


def look(function: Callable[[], T], tell: Callable[[str], None]) -> T:
    """`outlast` for a command that shows something and ends: it waits for a minute."""
    return outlast(function, tell, seconds=_LOOK_SECONDS)
