"""The one owner of the models in a process: a worker thread with a bounded priority queue and micro-batches."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol, TypeVar, runtime_checkable

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.interactive.clicks import ClickSegmenter
from ml_backend.errors import BusyError, EngineError
from ml_backend.serving.click_lane import ClickLane
from ml_backend.serving.recovery import MemoryEvent, Segments, relieve, segment_each

__all__ = ["BusyError", "Engine", "EngineError", "EngineStatus", "Priority", "Segments", "TakesClicks"]

_log = logging.getLogger(__name__)
_RELOAD_AFTER = 30.0
_NO_CLICKS = "the loaded models take no clicks; use a profile with a segmenter"
T = TypeVar("T")

State = Literal["idle", "loading", "ready", "failed", "closed"]


@runtime_checkable
class TakesClicks(Protocol):
    """What loaded models offer besides `Segments` if they answer clicks too."""

    @property
    def clicks(self) -> ClickSegmenter:
        """Shares the strategy's segmenter; called from another thread than the strategy."""
        ...


@runtime_checkable
class TellsMemory(Protocol):
    """What loaded models offer besides `Segments` if they know their accelerator's memory."""

    def accelerator_memory(self) -> Mapping[str, int]:
        """Bytes by kind; {} on a CPU. Quick, and called from any thread."""
        ...


class Priority(IntEnum):
    """Who goes first."""

    INTERACTIVE = 0
    PREDICT = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot: ``why`` says what made loading fail.

    ``waiting`` and ``working`` count images, ``clicks`` waiting clicks, ``out_of_memory`` what memory ran out for.
    """

    state: State
    why: str
    waiting: int
    working: int
    clicks: int = 0
    out_of_memory: Mapping[MemoryEvent, int] = field(default_factory=dict)


@dataclass(order=True, slots=True)
class _Job:
    priority: int
    number: int
    image: Image = field(compare=False)
    task: TaskPrompt = field(compare=False)
    strategy: str = field(compare=False)
    future: Future[Segmentation] = field(compare=False)


class Engine:
    """Runs a strategy, one micro-batch at a time, in its own thread.

    The models are loaded in that thread when `start` is called; nothing else waits for them. Images with the same task,
    strategy and priority that wait at the same moment share a micro-batch, whatever request they came with. One that
    fails, or is too large for the accelerator, is taken apart (``ml_backend.serving.recovery``), so that one bad
    image fails alone. Clicks have a thread of their own (`ClickLane`) and wait for no batch.

    Args:
        load: makes the strategy; slow, may raise.
        micro_batch: most images in one batch.
        queue_size: most images waiting.
        linger: seconds that a batch that is not full waits for company (not for interactive work).
    """

    def __init__(
        self,
        load: Callable[[], Segments],
        *,
        micro_batch: int = 4,
        queue_size: int = 512,
        linger: float = 0.02,
    ) -> None:
        self._load = load
        self._micro_batch = micro_batch
        self._queue_size = queue_size
        self._linger = linger
        self._condition = threading.Condition()
        self._heap: list[_Job] = []
        self._numbers = itertools.count()
        self._state: State = "idle"
        self._why = ""
        self._failed_at = 0.0
        self._working = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._lane = ClickLane(self._note)
        self._memory: Counter[MemoryEvent] = Counter()
        self._meter: Callable[[], Mapping[str, int]] | None = None
        self._reload_wanted = False
        self._takes_clicks = True

    @property
    def status(self) -> EngineStatus:
        """Where the engine stands; never waits for the models."""
        with self._condition:
            waiting, memory = len(self._heap), dict(self._memory)
            return EngineStatus(self._state, self._why, waiting, self._working, self._lane.waiting, memory)

    def memory(self) -> Mapping[str, int]:
        """Bytes of the accelerator's memory by kind; empty where the models do not tell, or while they are loaded."""
        meter = self._meter
        return {} if meter is None else meter()

    def start(self) -> None:
        """Begin to load the models in the background. Calling it again does nothing."""
        with self._condition:
            if self._thread is None and not self._closing:
                self._state = "loading"
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()

    def submit(
        self, image: Image, task: TaskPrompt, priority: Priority = Priority.PREDICT, strategy: str = ""
    ) -> Future[Segmentation]:
        """Queue one image; the future may be cancelled while the image waits. ``strategy`` "" is that of the settings.

        Raises:
            BusyError: the queue is full (interactive work is always taken).
            EngineError: the engine is closed, or the models could not be loaded a moment ago.
        """
        future: Future[Segmentation] = Future()
        with self._condition:
            if self._closing:
                raise EngineError("the backend is shutting down; try again in a minute")
            if self._state == "failed" and time.monotonic() - self._failed_at < _RELOAD_AFTER:
                raise EngineError(f"the models could not be loaded: {self._why}")
            if priority != Priority.INTERACTIVE and len(self._heap) >= self._queue_size:
                raise BusyError(f"{len(self._heap)} images are waiting for the models already; try again later")
            heapq.heappush(self._heap, _Job(int(priority), next(self._numbers), image, task, strategy, future))
            self._condition.notify_all()
        return future

    def click(self, work: Callable[[ClickSegmenter], T], *, urgent: bool = True) -> Future[T]:
        """Queue work for the segmenter alone; it overtakes every image. Waits while the models are being loaded.

        Raises:
            EngineError: as `submit`.
        """
        with self._condition:
            if self._state == "failed" and time.monotonic() - self._failed_at < _RELOAD_AFTER:
                raise EngineError(f"the models could not be loaded: {self._why}")
            if not self._takes_clicks:
                raise EngineError(_NO_CLICKS)
            future = self._lane.submit(work, urgent=urgent)
            if self._state == "failed":
                self._reload_wanted = True
                self._condition.notify_all()
        return future

    def close(self, timeout: float | None = 30.0) -> None:
        """Finish the batch at work, fail what waits, and end the thread (waiting for at most ``timeout`` seconds)."""
        with self._condition:
            self._closing = True
            waiting, self._heap = self._heap, []
            self._condition.notify_all()
        for job in waiting:
            _fail(job, EngineError("the backend is shutting down; try again in a minute"))
        self._lane.close(timeout)
        if self._thread is not None:
            self._thread.join(timeout)
        with self._condition:
            self._state = "closed"

    def _run(self) -> None:
        strategy: Segments | None = None
        while True:
            if strategy is None:
                strategy = self._try_to_load()
            with self._condition:
                while not self._heap and not self._closing and not self._reload_wanted:
                    self._condition.wait()
                if self._closing:
                    return
                self._reload_wanted = False
                batch = [] if strategy is None or not self._heap else self._take_batch()
                self._working = len(batch)
            if strategy is not None and batch:
                self._work(strategy, batch)

    def _try_to_load(self) -> Segments | None:
        with self._condition:
            if self._closing:
                return None
            self._state, self._why = "loading", ""
        started = time.monotonic()
        try:
            strategy = self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service lives on and says so
            _log.exception("loading the models failed")
            why = " ".join(str(error).split()) or type(error).__name__
            with self._condition:
                self._state, self._why, self._failed_at = "failed", why, time.monotonic()
                waiting, self._heap = self._heap, []
            for job in waiting:
                _fail(job, EngineError(f"the models could not be loaded: {why}"))
            self._lane.fail(EngineError(f"the models could not be loaded: {why}"))
            return None
        with self._condition:
            self._state, self._takes_clicks = "ready", isinstance(strategy, TakesClicks)
            self._meter = strategy.accelerator_memory if isinstance(strategy, TellsMemory) else None
        if isinstance(strategy, TakesClicks):
            self._lane.open(strategy.clicks, functools.partial(relieve, strategy))
        else:
            self._lane.fail(EngineError(_NO_CLICKS))
        _log.info("models loaded in %.1f s", time.monotonic() - started)
        return strategy

    def _take_batch(self) -> list[_Job]:
        """The first job and others of its kind; called with the lock held, the queue not empty."""
        first = self._heap[0]
        if first.priority != Priority.INTERACTIVE and len(self._heap) < self._micro_batch and self._linger > 0:
            self._condition.wait_for(lambda: len(self._heap) >= self._micro_batch or self._closing, self._linger)
            if not self._heap:
                return []
            first = self._heap[0]
        alike = sorted(job for job in self._heap if _kind(job) == _kind(first))
        chosen = {job.number for job in alike[: self._micro_batch]}
        self._heap = [job for job in self._heap if job.number not in chosen]
        heapq.heapify(self._heap)
        return alike[: self._micro_batch]

    def _work(self, strategy: Segments, batch: list[_Job]) -> None:
        live = [job for job in batch if job.future.set_running_or_notify_cancel()]
        images = [job.image for job in live]
        try:
            if live:
                for index, outcome in segment_each(strategy, images, live[0].task, live[0].strategy, self._note):
                    if isinstance(outcome, EngineError):
                        live[index].future.set_exception(outcome)
                    else:
                        live[index].future.set_result(outcome)
        finally:
            with self._condition:
                self._working = 0

    def _note(self, event: MemoryEvent) -> None:
        with self._condition:
            self._memory[event] += 1


def _kind(job: _Job) -> tuple[int, str, TaskPrompt]:
    return job.priority, job.strategy, job.task


def _fail(job: _Job, error: EngineError) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
