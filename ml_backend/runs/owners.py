"""Names of those who lease tasks: ``host:pid:random``, so that a machine knows its own dead."""

from __future__ import annotations

import os
import secrets
import socket


def new_owner() -> str:
    """A name for a worker in this process."""
    return f"{this_host()}:{os.getpid()}:{secrets.token_hex(4)}"


def this_host() -> str:
    """The name of this machine or container, at most 100 characters."""
    return socket.gethostname()[:100]


def pid_of(owner: str) -> int | None:
    """The process of an owner, or None for a name of another form."""
    parts = owner.rsplit(":", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None


def process_lives(pid: int) -> bool:
    """Whether a process of that id is there, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
