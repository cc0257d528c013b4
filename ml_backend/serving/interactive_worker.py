"""A thread for clicks, beside the engine's own that runs the strategy."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
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
    work: Callable[[ClickSegmenter], Any] = field(compare=False)
    future: Future[Any] = field(compare=False)


class InteractiveWorker:
    """Runs click work one at a time, urgent work first, from `open` on; what comes before waits.

    Work that runs out of memory is tried once more after `free_memory`; ``on_memory`` hears of it.

    The strategy may be busy with its other models for minutes. Clicks share only the segmenter with it, which lets
    one call in at a time (``int_model.interactive.shared_segmenter``), so they need not wait for its batch.
    """

    def __init__(self, on_memory: Callable[[MemoryEvent], None] = lambda _: None) -> None:
        self._on_memory = on_memory
        self._free_memory: Callable[[], None] = lambda: None
        self._condition = threading.Condition()
        self._heap: list[_Job] = []
        self._numbers = itertools.count()
        self._segmenter: ClickSegmenter | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """How much waits."""
        with self._condition:
            return len(self._heap)

    def submit(self, work: Callable[[ClickSegmenter], T], *, urgent: bool = True) -> Future[T]:
        """Queue work; its future may be cancelled while it waits. Raises ``EngineError`` once closed."""
        future: Future[T] = Future()
        with self._condition:
            if self._closing:
                raise EngineError("the backend is shutting down; try again in a minute")
            heapq.heappush(self._heap, _Job(not urgent, next(self._numbers), work, future))
            self._condition.notify_all()
        return future

    def open(self, segmenter: ClickSegmenter, free_memory: Callable[[], None] = lambda: None) -> None:
        """Begin to work, with this segmenter; ``free_memory`` makes it give memory back."""
        with self._condition:
            self._free_memory = free_memory
            self._segmenter = segmenter
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="clicks", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def fail(self, error: EngineError) -> None:
        """Fail everything that waits."""
        with self._condition:
            waiting, self._heap = self._heap, []
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

    def close(self, timeout: float | None) -> None:
        """Finish what is at work, fail what waits, end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self.fail(EngineError("the backend is shutting down; try again in a minute"))
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._heap or self._closing)
                if self._closing:
                    return
                job, segmenter = heapq.heappop(self._heap), self._segmenter
            if segmenter is None or not job.future.set_running_or_notify_cancel():
                continue
            self._answer(job, segmenter, once_more=True)

    def _answer(self, job: _Job, segmenter: ClickSegmenter, *, once_more: bool) -> None:
        try:
            job.future.set_result(job.work(segmenter))
        except NotEncodedError as error:
            job.future.set_exception(error)
            return
        except Exception as error:  # noqa: BLE001 - whatever a model raises, only this click fails
            memory = is_out_of_memory(error)
            if not (memory and once_more):
                _log.warning("a click failed: %s", type(error).__name__, exc_info=not memory)
                message = _TOO_LARGE if memory else " ".join(str(error).split())[:300] or type(error).__name__
                job.future.set_exception(EngineError(f"the segmenter failed on this click: {message}"))
                if memory:
                    self._on_memory("failed")
                return
        else:
            return
        # Only here, outside the handler, has the traceback let go of what the failed attempt held.
        _log.warning("a click ran out of memory; trying it once more")
        self._free_memory()
        self._on_memory("retried")
        self._answer(job, segmenter, once_more=False)
