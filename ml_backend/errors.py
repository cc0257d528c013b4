"""What the engine refuses, and why."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The models cannot take or finish this image; the message names the cure."""


class BusyError(EngineError):
    """The queue is full; the same request may be made again later."""
