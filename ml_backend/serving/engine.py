"""The one owner of the models in a process: a thread that takes micro-batches from the queue, and lends the models."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from int_model.interactive.clicks import ClickSegmenter
from int_model.strategies.base import Segments
from ml_backend.errors import EngineError
from ml_backend.serving.interactive_worker import InteractiveWorker
from ml_backend.serving.queue import ImageQueue, Job
from ml_backend.serving.recovery import MemoryEvent, free_memory, segment_each

_log = logging.getLogger(__name__)
TRAINING_SHARE = 0.1
"""Part of the time that training steps get while images wait; the rest is the images'."""

LEASE_SECONDS = 1.0
"""How long a leased step may take."""
_RELOAD_AFTER = 30.0
_SHUTTING_DOWN = "the backend is shutting down; try again in a minute"
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
class TakesBreaks(Protocol):
    """What loaded models offer besides `Segments` if a micro-batch of theirs can be interrupted between its stages."""

    def on_break(self, work: Callable[[], None]) -> None:
        """Have ``work``, which never raises, called after each stage, from the thread that segments."""
        ...


@runtime_checkable
class TellsMemory(Protocol):
    """What loaded models offer besides `Segments` if they know their accelerator's memory."""

    def accelerator_memory(self) -> Mapping[str, int]:
        """Bytes by kind; {} on a CPU. Quick, and called from any thread."""
        ...


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


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Work that borrows the models."""

    work: Callable[[Segments], Any]
    future: Future[Any]


class Engine:
    """Runs a strategy, one micro-batch at a time, in its own thread.

    The models are loaded in that thread when `start` is called; nothing else waits for them. Jobs of the queue with the
    same prompt and strategy that are ready at the same moment share a micro-batch, whatever request they came with. One
    that fails, or is too large for the accelerator, is taken apart (``ml_backend.serving.recovery``), so that one bad
    image fails alone. Clicks have a thread of their own (`InteractiveWorker`) and wait for no batch. More urgent images
    wait for no batch either, only for a stage of it: what is ready then goes in between (`TakesBreaks`).

    Args:
        load: makes the strategy; slow, may raise.
        queue: the images; shared with whoever puts them in.
        micro_batch: most images in one batch.
        linger: seconds that a batch that is not full waits for company (not for interactive work).
    """

    def __init__(
        self, load: Callable[[], Segments], queue: ImageQueue, *, micro_batch: int = 4, linger: float = 0.02
    ) -> None:
        self._load = load
        self._queue = queue
        self._micro_batch = micro_batch
        self._linger = linger
        self._lock = threading.Lock()
        self._steps: deque[_Step] = deque()
        self._state: State = "idle"
        self._why = ""
        self._failed_at = 0.0
        self._running: list[list[Job]] = []  # the batches at the models; each is interrupted by the next
        self._closing = False
        self._thread: threading.Thread | None = None
        self._clicks = InteractiveWorker(self._note)
        self._memory: Counter[MemoryEvent] = Counter()
        self._meter: Callable[[], Mapping[str, int]] | None = None
        self._takes_clicks = True
        self._credit = 0.0  # seconds of training that are due, however many images wait

    @property
    def clicking(self) -> bool:
        """Whether a click waits or is being answered."""
        return self._clicks.busy

    @property
    def status(self) -> EngineStatus:
        """Where the engine stands; never waits for the models."""
        with self._lock:
            memory = dict(self._memory)
            working = sum(map(len, self._running))
            return EngineStatus(self._state, self._why, self._queue.ready, working, self._clicks.waiting, memory)

    def memory(self) -> Mapping[str, int]:
        """Bytes of the accelerator's memory by kind; empty where the models do not tell, or while they are loaded."""
        meter = self._meter
        return {} if meter is None else meter()

    def start(self) -> None:
        """Begin to load the models in the background. Calling it again does nothing."""
        with self._lock:
            if self._thread is None and not self._closing:
                self._state = "loading"
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()

    def check(self) -> None:
        """Raises ``EngineError`` if the engine is closed, or the models could not be loaded a moment ago."""
        with self._lock:
            self._check()

    def click(self, work: Callable[[ClickSegmenter], T], *, urgent: bool = True) -> Future[T]:
        """Queue work for the segmenter alone; it overtakes every image. Waits while the models are being loaded.

        Raises:
            EngineError: as `check`, or the models take no clicks.
        """
        with self._lock:
            self._check()
            if not self._takes_clicks:
                raise EngineError(_NO_CLICKS)
            future = self._clicks.submit(work, urgent=urgent)
        self._queue.wake()  # models that could not be loaded are tried again
        return future

    def lease(self, work: Callable[[Segments], T]) -> Future[T]:
        """Lend the models to a training step, which runs in the engine's thread when no image is ready for them.

        While images wait, steps get `TRAINING_SHARE` of the time.

        Images and further steps wait until it returns, so it must do so within `LEASE_SECONDS`: long work is cut into
        many steps. Clicks wait for no step; they share the segmenter with it call by call.

        Args:
            work: gets the loaded models; whatever it raises fails its own future alone.

        Returns:
            What the work returns; may be cancelled while the step waits.

        Raises:
            EngineError: as `check`.
        """
        step = _Step(work, Future())
        with self._lock:
            self._check()
            self._steps.append(step)
        self._queue.wake()
        return step.future

    def close(self, timeout: float | None = 30.0) -> None:
        """Finish the batch at work, fail what waits, and end the thread (waiting for at most ``timeout`` seconds)."""
        with self._lock:
            self._closing = True
        error = EngineError(_SHUTTING_DOWN)
        self._fail_waiting(error)
        self._queue.wake()
        self._clicks.close(error, timeout)
        if self._thread is not None:
            self._thread.join(timeout)
        with self._lock:
            self._state = "closed"

    def _check(self) -> None:
        if self._closing:
            raise EngineError(_SHUTTING_DOWN)
        if self._state == "failed" and time.monotonic() - self._failed_at < _RELOAD_AFTER:
            raise EngineError(f"the models could not be loaded: {self._why}")

    def _run(self) -> None:
        models: Segments | None = None
        while not self._closing:
            if models is None:
                models = self._try_to_load()
            if models is None or not self._take_turn(models):
                self._queue.wait()

    def _take_turn(self, models: Segments) -> bool:
        """Segment a micro-batch; a training step goes in where no image waits, or where its share is due."""
        started = time.monotonic()
        worked = self._work(models)
        if worked:
            self._credit = min(self._credit + TRAINING_SHARE * (time.monotonic() - started), LEASE_SECONDS)
            if self._credit <= 0 or not self._steps:
                return True
        started = time.monotonic()
        stepped = self._take_step(models)
        if worked and stepped:
            self._credit -= time.monotonic() - started
        return worked or stepped

    def _try_to_load(self) -> Segments | None:
        with self._lock:
            self._state, self._why = "loading", ""
        started = time.monotonic()
        try:
            models = self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service lives on and says so
            _log.exception("loading the models failed")
            why = " ".join(str(error).split()) or type(error).__name__
            with self._lock:
                self._state, self._why, self._failed_at = "failed", why, time.monotonic()
            failure = EngineError(f"the models could not be loaded: {why}")
            self._fail_waiting(failure)
            self._clicks.fail(failure)
            return None
        with self._lock:
            self._state, self._takes_clicks = "ready", isinstance(models, TakesClicks)
            self._meter = models.accelerator_memory if isinstance(models, TellsMemory) else None
        if isinstance(models, TakesBreaks):
            models.on_break(functools.partial(self._between_stages, models))
        if isinstance(models, TakesClicks):
            self._clicks.open(models.clicks, functools.partial(free_memory, models))
        else:
            self._clicks.fail(EngineError(_NO_CLICKS))
        _log.info("models loaded in %.1f s", time.monotonic() - started)
        return models

    def _work(self, models: Segments, before: Sequence[Job] = ()) -> bool:
        """Segment one micro-batch, if there is any; ``before``: only of jobs that are more urgent than these."""
        jobs = self._queue.take(self._micro_batch, self._linger, before)
        if not jobs:
            return False
        images = [job.image for job in jobs if job.image is not None]
        self._running.append(jobs)
        try:
            prompt, strategy, adapter = jobs[0].request.kind
            for index, outcome in segment_each(models, images, prompt, strategy, self._note, adapter):
                if isinstance(outcome, EngineError):
                    jobs[index].segmentation.set_exception(outcome)
                else:
                    jobs[index].segmentation.set_result(outcome)
        finally:
            self._running.pop()
        return True

    def _between_stages(self, models: Segments) -> None:
        """Let more urgent images go before the rest of the batch that is at the models."""
        while self._running and threading.current_thread() is self._thread and not self._closing:
            if not self._work(models, self._running[-1]):
                return

    def _take_step(self, models: Segments) -> bool:
        """Run one training step; whether there was any."""
        with self._lock:
            step = self._steps.popleft() if self._steps else None
        if step is None or not step.future.set_running_or_notify_cancel():
            return step is not None
        started = time.monotonic()
        try:
            step.future.set_result(step.work(models))
        except Exception as error:  # noqa: BLE001 - whatever a step raises, the engine lives on
            step.future.set_exception(error)
        took = time.monotonic() - started
        if took > LEASE_SECONDS:
            _log.warning("a training step held up the models for %.1f s; cut it into smaller ones", took)
        return True

    def _fail_waiting(self, error: EngineError) -> None:
        for job in self._queue.take_all():
            job.segmentation.set_exception(error)
        with self._lock:
            steps, self._steps = self._steps, deque()
        for step in steps:
            if step.future.set_running_or_notify_cancel():
                step.future.set_exception(error)

    def _note(self, event: MemoryEvent) -> None:
        with self._lock:
            self._memory[event] += 1
