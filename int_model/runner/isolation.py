"""A batch through the models, whatever it takes: out of memory it is halved, after another failure items go alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from int_model.models.errors import TransientModelError

_log = logging.getLogger(__name__)
_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. Holds no exception: its traceback would keep the tensors of the attempt alive.

    Attributes:
        kind: name of the exception's type.
        message: its text in one line, at most 300 characters.
        memory: whether memory ran out.
        transient: whether the models could not answer at the moment, so that the same call may succeed later.
        expected: whether the message is a sentence for users (a ``ValueError``).
        retry_after: of a transient failure, the seconds that the model asked to wait for, if it did.
    """

    kind: str
    message: str
    memory: bool = False
    transient: bool = False
    expected: bool = False
    retry_after: float | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What to keep of an exception."""
        transient = isinstance(error, TransientModelError)
        return cls(
            kind=type(error).__name__,
            message=" ".join(str(error).split())[:300] or type(error).__name__,
            memory=is_out_of_memory(error),
            transient=transient,
            expected=isinstance(error, ValueError),
            retry_after=error.retry_after if isinstance(error, TransientModelError) else None,
        )

    def explain(self) -> str:
        """One sentence for a user of the command line: what happened to this image, and what to do about it."""
        if self.memory:
            return "the models ran out of memory on this image; use a smaller --profile, or --set limits.max_side=1024"
        if self.transient:
            return f"the model cannot answer at the moment ({self.message}); run the same command again"
        if self.expected:
            return self.message
        return f"the models failed on this image ({self.kind}: {self.message}); --debug shows where"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that memory ran out (torch's, the system's, CUDA's)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        named = any(cls.__name__ == "OutOfMemoryError" for cls in type(current).__mro__)
        told = isinstance(current, RuntimeError) and any(sign in str(current).lower() for sign in _SIGNS)
        if named or told or isinstance(current, MemoryError):
            return True
        current = current.__cause__ or current.__context__
    return False


def isolate(
    attempt: Callable[[Sequence[T]], Sequence[R]],
    items: Sequence[T],
    *,
    free_memory: Callable[[], None] = lambda: None,
    rescue: Callable[[T, Failure], R | Failure] = lambda _, failure: failure,
) -> Iterator[tuple[int, R | Failure]]:
    """Every item's result or failure with its place in ``items``, each as soon as it is known.

    Out of memory: the batch is halved and tried again, and no later part of it is larger; an item that does not fit
    alone is tried once more, then left to ``rescue``. After any other failure the items of the batch are tried one by
    one. A transient failure is that of the whole part, since its items are not to blame.

    Args:
        attempt: results for a list of items, one each; whatever ``Exception`` it raises becomes a ``Failure``.
        items: the batch.
        free_memory: called after memory ran out, before the next attempt.
        rescue: a last resort for an item that memory ran out for even alone.
    """
    start, limit = 0, max(1, len(items))
    while start < len(items):
        part = range(start, min(start + limit, len(items)))
        outcome = try_once(attempt, [items[i] for i in part])
        if not isinstance(outcome, Failure):
            yield from zip(part, outcome, strict=True)
            start = part.stop
        elif outcome.transient:
            yield from ((i, outcome) for i in part)
            start = part.stop
        elif len(part) > 1:
            limit = len(part) // 2 if outcome.memory else 1
            _log.info("a batch of %d failed (%s); trying %d at once", len(part), outcome.kind, limit)
            if outcome.memory:
                free_memory()
        else:
            yield start, _alone(attempt, items[start], outcome, free_memory, rescue)
            start += 1


def _alone(
    attempt: Callable[[Sequence[T]], Sequence[R]],
    item: T,
    failure: Failure,
    free_memory: Callable[[], None],
    rescue: Callable[[T, Failure], R | Failure],
) -> R | Failure:
    """What else can be done for an item that failed alone."""
    if not failure.memory:
        return failure
    free_memory()
    again = try_once(attempt, [item])
    if not isinstance(again, Failure):
        return again[0]
    return rescue(item, again) if again.memory else again


def try_once(attempt: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> Sequence[R] | Failure:
    """The results of one attempt, or why it failed."""
    try:
        results = attempt(items)
    except Exception as error:  # noqa: BLE001 whatever a model raises is these images' failure, not the run's
        failure = Failure.of(error)
        _log.debug("%d images failed", len(items), exc_info=not failure.memory)
        return failure
    if len(results) != len(items):
        return Failure("RuntimeError", f"the strategy gave {len(results)} results for {len(items)} images")
    return results
