"""What a model may raise besides the errors of bad input. No torch here."""

from __future__ import annotations


class TransientModelError(RuntimeError):
    """A model cannot answer at the moment: a remote endpoint refused the connection, timed out, or sent 429 or 503.

    The images of the call are not to blame: the same call may succeed later, so callers postpone the work instead of
    failing it. Whatever else a model raises is permanent for that call. The message is one sentence without
    credentials and without the request's body.

    Attributes:
        retry_after: seconds after which the model asked to be called again, or None if it named none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
