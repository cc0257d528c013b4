"""The one small port between those who want work done and those who do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Work = Callable[[str], bool]
"""Does one micro-batch of the run of that id; returns whether more may be left in it."""


class RunQueue(Protocol):
    """Tells workers that a run has work.

    A message is a ticket for one micro-batch of a run. Which tasks that is, the ledger decides when the ticket is
    used, so tickets may be lost, doubled or late.
    """

    def wake(self, run_id: str) -> None:
        """Make sure that workers come to that run. Cheap; calling it again and again does no harm.

        Raises ``QueueError`` if the queue cannot be reached.
        """
        ...

    def close(self) -> None:
        """Release connections; what is being worked on goes on."""
        ...


class NullQueue:
    """`RunQueue` of a process that only looks, or that does the run itself: it wakes no worker."""

    def wake(self, run_id: str) -> None:
        pass

    def close(self) -> None:
        pass


class QueueError(RuntimeError):
    """The queue cannot be reached; the message names the remedy. The ledger keeps the run; `wake` again later."""
