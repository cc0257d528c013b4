"""What the engine refuses, and why."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The models cannot take or finish this image; the message names the remedy.

    Attributes:
        transient: whether the image is not to blame, so that the same request may succeed later.
        retry_after: seconds after which to try again, if that is known.
    """

    transient = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(EngineError):
    """The queue is full."""

    transient = True


class ModelsAwayError(EngineError):
    """A model cannot answer at the moment, e.g. a remote one that sent 503."""

    transient = True
