"""How the service shares Python's interpreter: the event loop must have its turn, whatever other threads do."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable

_SWITCH_SECONDS = 0.0005  # the models' threads hold the interpreter's lock at most that long while the event loop waits
_LOOK_SECONDS = 0.5


def share() -> None:
    """Let threads take turns often, and what is there by now stay out of the garbage collector's sight.

    A full collection looks at every object, of imported modules above all, and holds the interpreter meanwhile: 0.15 s
    for 260,000 objects, again and again while requests make new ones.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


async def share_once(ready: Callable[[], bool]) -> None:
    """The same for what is made until something is ready, the models say; without a collection, which takes long."""
    while not ready():
        await asyncio.sleep(_LOOK_SECONDS)
    gc.freeze()
