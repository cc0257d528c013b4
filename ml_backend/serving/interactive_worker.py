"""A thread for clicks, beside the engine's own that runs the strategy."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, PriorityQueue
from typing import Any, TypeVar

from int_model.interactive.clicks import ClickSegmenter, NotEncodedError
from int_model.runner.isolation import is_out_of_memory
from ml_backend.errors import EngineError
from ml_backend.serving.recovery import MemoryEvent

_log = logging.getLogger(__name__)
T = TypeVar("T")
_TOO_LARGE = "the accelerator has not enough memory for it; try again when fewer images are at work"


@dataclass(order=True, slots=True)
class _Job:
    later: bool
    number: int
    work: Callable[[ClickSegmenter], Any] | None = field(compare=False)  # None ends the thread
    future: Future[Any] = field(compare=False)


class InteractiveWorker:
    """Runs click work one at a time, urgent work first, from `open` on; what comes before waits.

    Work that runs out of memory is tried once more after memory was freed; ``on_memory`` hears of it.

    The strategy may be busy with its other models for minutes. Clicks share only the segmenter with it, which lets
    one call in at a time (``int_model.interactive.shared_segmenter``), so they need not wait for its batch.
    """

    def __init__(self, on_memory: Callable[[MemoryEvent], None]) -> None:
        self._on_memory = on_memory
        self._jobs: PriorityQueue[_Job] = PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._at_work = False

    @property
    def busy(self) -> bool:
        """Whether work waits or is being done; quick, for those who step aside for it."""
        return self._at_work or not self._jobs.empty()

    @property
    def waiting(self) -> int:
        """How much waits."""
        return self._jobs.qsize()

    def submit(self, work: Callable[[ClickSegmenter], T], *, urgent: bool = True) -> Future[T]:
        """Queue work; its future may be cancelled while it waits. Not to be called once closed."""
        future: Future[T] = Future()
        self._jobs.put(_Job(not urgent, next(self._numbers), work, future))
        return future

    def open(self, segmenter: ClickSegmenter, free_memory: Callable[[], None]) -> None:
        """Begin to work, with this segmenter; ``free_memory`` makes it give memory back."""
        self._thread = threading.Thread(target=self._run, args=(segmenter, free_memory), name="clicks", daemon=True)
        self._thread.start()

    def fail(self, error: EngineError) -> None:
        """Fail everything that waits."""
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error)

    def close(self, error: EngineError, timeout: float | None) -> None:
        """Finish what is at work, fail what waits, end the thread."""
        self.fail(error)
        self._jobs.put(_Job(False, next(self._numbers), None, Future()))
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, segmenter: ClickSegmenter, free_memory: Callable[[], None]) -> None:
        while (job := self._jobs.get()).work is not None:
            self._at_work = True
            if job.future.set_running_or_notify_cancel() and not self._answered(job, job.work, segmenter, "retried"):
                # Only here, outside the handler, has the traceback let go of what the failed attempt held.
                _log.warning("a click ran out of memory; trying it once more")
                free_memory()
                self._answered(job, job.work, segmenter, "failed")
            self._at_work = False

    def _answered(self, job: _Job, work: Callable[..., Any], segmenter: ClickSegmenter, on_full: MemoryEvent) -> bool:
        """Whether the work is over; False if memory ran out and it is to be tried again."""
        try:
            job.future.set_result(work(segmenter))
        except NotEncodedError as error:
            job.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whatever a model raises, only this click fails
            memory = is_out_of_memory(error)
            if memory:
                self._on_memory(on_full)
            if memory and on_full == "retried":
                return False
            _log.warning("a click failed: %s", type(error).__name__, exc_info=not memory)
            message = _TOO_LARGE if memory else " ".join(str(error).split())[:300] or type(error).__name__
            job.future.set_exception(EngineError(f"the segmenter failed on this click: {message}"))
        return True
