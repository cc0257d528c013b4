"""The one queue of images on their way to the models. Who waits for an image now decides when its turn comes.

Safe between threads: the event loop puts jobs in and reports what became of their files, the engine's thread takes out
what is ready. Knows neither how a file is fetched nor what a model is.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.runner.results import StoredResult
from ml_backend.errors import BusyError

_MAX_JOBS = 50_000
_OUTDATED = 1000


class Priority(IntEnum):
    """Who goes first: a smaller number."""

    INTERACTIVE = 0
    PREDICT = 1
    BATCH = 2


class Stage(Enum):
    """How far a job is: its file is not fetched yet, is being fetched and decoded, is decoded, is at the models."""

    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    RUNNING = "running"


@dataclass(slots=True, eq=False)
class Waiter:
    """Who waits for jobs, for a project. The priority counts for all of them; `ImageQueue.set_priority` changes it."""

    priority: Priority
    project: str = ""
    jobs: set[Job] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for the image at an address.

    Attributes:
        source: stands for task and address; never equal to the digest of a file.
        address: as the task names it.
        task_id: of the task, or None.
        prompt: what to look for.
        strategy: name of the strategy; "" is that of the settings.
        adapter: what was learned on top of the models; "" for the models as they are.
    """

    source: str
    address: str
    task_id: int | None
    prompt: TaskPrompt
    strategy: str = ""
    adapter: str = ""

    @property
    def kind(self) -> tuple[TaskPrompt, str, str]:
        """What the images of a micro-batch have in common."""
        return self.prompt, self.strategy, self.adapter


@dataclass(slots=True, eq=False)
class Job:
    """The work of one or more equal requests.

    Attributes:
        request: the first of them.
        number: its place in the order of arrival.
        project: of whoever asked first.
        turn: when it was its project's turn; projects take turns, whatever each of them asks for.
        stage: how far it is.
        waiters: all who wait for it.
        source: stands for the image: as in the request, then the digest of the file once it is fetched.
        names: every source that leads to the job.
        image: ``uint8 [H, W, 3]`` from `Stage.READY` on.
        segmentation: what the models say; set by the engine.
        results: one for each request; set by whoever calls `ImageQueue.finish`.
    """

    request: Request
    number: int
    project: str = ""
    turn: int = 0
    source: str = ""
    names: list[str] = field(default_factory=list)
    stage: Stage = Stage.QUEUED
    waiters: set[Waiter] = field(default_factory=set)
    image: Image | None = None
    segmentation: Future[Segmentation] = field(default_factory=Future)
    results: list[asyncio.Future[StoredResult]] = field(default_factory=list)

    @property
    def priority(self) -> Priority:
        """That of the most urgent waiter; the lowest without any."""
        return min((waiter.priority for waiter in self.waiters), default=max(Priority))

    @property
    def order(self) -> tuple[Priority, int, int]:
        """The smallest goes first."""
        return self.priority, self.turn, self.number


class ImageQueue:
    """Jobs by image, prompt and strategy, the most urgent first; projects take turns, each in the order of arrival.

    A request for work that is under way joins it. Work that nobody waits for any more is dropped unless the models are
    at it. Only so many images are fetched at a time, and only so many are held in memory until the models are done
    with them. Each step of urgency above `Priority.BATCH` may exceed both limits by ``reserve``, since otherwise a
    request would wait for the places of less urgent ones. So may a project none of whose images is at it, since
    otherwise it would wait until another project's hosts have answered.

    Args:
        places: most images that are being fetched, wait for the models in memory, or are at them.
        downloads: most images that are being fetched and decoded.
        reserve: see above.
        size: most jobs; more are refused, unless they are interactive.
        quota: most jobs of one project, in the same way.
    """

    def __init__(
        self, *, places: int, downloads: int, reserve: int, size: int = _MAX_JOBS, quota: int = _MAX_JOBS
    ) -> None:
        self._places = places
        self._downloads = downloads
        self._reserve = reserve
        self._size = size
        self._quota = quota
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._jobs: dict[str, dict[tuple[TaskPrompt, str, str], Job]] = {}
        self._queued: dict[int, Job] = {}
        # Of each project; they may hold outdated entries of jobs with another priority by now.
        self._heaps: dict[str, list[tuple[Priority, int]]] = {}
        self._of_project: dict[str, set[Job]] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._begun: set[Job] = set()
        self._loading = 0
        self._woken = False

    @property
    def ready(self) -> int:
        """How many jobs wait for the models only."""
        with self._changed:
            return len(self._ready())

    # --- waiters, in the event loop

    def join(self, waiter: Waiter, request: Request) -> Job:
        """Wait for the job of a request, which is made if there is none.

        Raises:
            BusyError: there are too many jobs.
        """
        with self._changed:
            job = self._jobs.get(request.source, {}).get(request.kind)
            if job is None:
                count = len(self._queued) + len(self._begun)
                if count >= self._size and waiter.priority != Priority.INTERACTIVE:
                    raise BusyError(f"{count} images are waiting for the models already; try again later")
                own = len(self._of_project.get(waiter.project, ()))
                if own >= self._quota and waiter.priority != Priority.INTERACTIVE:
                    raise BusyError(f"{own} images of this project are waiting for the models already; try again later")
                job = Job(request, next(self._numbers), waiter.project, source=request.source)
                self._name(job, request.source)
                self._of_project.setdefault(waiter.project, set()).add(job)
                self._queued[job.number] = job
            self._add(waiter, job)
            return job

    def find(self, request: Request) -> Job | None:
        """The job of a request, if there is one."""
        with self._changed:
            return self._jobs.get(request.source, {}).get(request.kind)

    def set_priority(self, waiter: Waiter, priority: Priority) -> None:
        """Give all jobs of a waiter another place in the order."""
        with self._changed:
            waiter.priority = priority
            for job in waiter.jobs:
                self._file(job)

    def leave(self, waiter: Waiter, successor: Waiter | None = None) -> None:
        """Wait no longer for any job; ``successor`` waits instead."""
        with self._changed:
            for job in waiter.jobs:
                job.waiters.discard(waiter)
                if successor is not None:
                    self._add(successor, job)
                elif job.waiters:
                    self._file(job)
                elif job.stage in (Stage.QUEUED, Stage.READY):
                    self._drop(job)
            waiter.jobs.clear()

    # --- files, in the event loop

    def next_to_load(self) -> list[Job]:
        """The jobs of the image whose file is to be fetched next; [] if none may be. `end_load` frees the download."""
        with self._changed:
            tops = ((project, self._top(project)) for project in list(self._heaps))
            waiting = [(top.priority, self._turns.get(project, 0), top.number, top) for project, top in tops if top]
            for priority, _, _, first in sorted(waiting, key=lambda entry: entry[:3]):
                if not self._has_place(priority, first.project):
                    continue
                self._turn = self._turns[first.project] = max(self._turn, self._turns.get(first.project, 0)) + 1
                jobs = [job for job in self._jobs[first.source].values() if job.number in self._queued]
                for job in jobs:
                    del self._queued[job.number]
                    self._begun.add(job)
                    job.stage, job.turn = Stage.LOADING, self._turn
                self._loading += 1
                return sorted(jobs, key=lambda job: job.number)
            return []

    def fetched(self, jobs: Sequence[Job], digest: str) -> list[Job]:
        """Take note of a file's digest; the jobs that go on. Others join those of the same file and are gone."""
        with self._changed:
            return [job for job in jobs if self._still_wanted(job) and self._identify(job, digest)]

    def end_load(self, jobs: Sequence[Job], image: Image | None = None) -> list[Job]:
        """An image is decoded, and its jobs are ready for the models; or None: their files could not be had.

        Returns the jobs that go on.
        """
        with self._changed:
            self._loading -= 1
            if image is None:
                return []
            wanted = [job for job in jobs if self._still_wanted(job)]
            for job in wanted:
                job.stage, job.image = Stage.READY, image
            self._changed.notify_all()
            return wanted

    def close(self) -> None:
        """Drop all jobs; those who wait for them are cancelled."""
        with self._changed:
            for job in [*self._queued.values(), *self._begun]:
                self._drop(job)

    def finish(self, job: Job) -> None:
        """The job is done, or has failed."""
        with self._changed:
            self._remove(job)

    # --- the engine

    def wait(self) -> None:
        """Return as soon as a job is ready or `wake` is called."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._ready())
            self._woken = False

    def wake(self) -> None:
        """End the `wait` that is under way, or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, most: int, linger: float = 0.0, before: Sequence[Job] = ()) -> list[Job]:
        """The most urgent job that is ready and up to ``most - 1`` more of its kind, in order; [] if none is ready.

        An interactive job is not held up by less urgent company. A batch that is not full waits ``linger`` seconds for
        more, unless an interactive job is ready. ``before``: only jobs that are more urgent than each of these, which
        are at the models; nothing is waited for then.
        """
        with self._changed:
            if before:
                least = min(job.priority for job in before)
                urgent = (job for job in self._ready() if job.priority < least)
                return self._begin(sorted(urgent, key=lambda job: job.order), most)
            ready = self._ready()
            if ready and len(ready) < most and all(job.priority != Priority.INTERACTIVE for job in ready):
                self._changed.wait_for(lambda: self._woken or len(self._ready()) >= most, linger)
            return self._begin(sorted(self._ready(), key=lambda job: job.order), most)

    def take_all(self) -> list[Job]:
        """All jobs that are ready, without waiting; forgets an earlier `wake`."""
        with self._changed:
            self._woken = False
            return [job for job in self._ready() if self._begin([job], 1)]

    # --- with the lock held

    def _ready(self) -> list[Job]:
        return [job for job in self._begun if job.stage is Stage.READY]

    def _begin(self, ordered: list[Job], most: int) -> list[Job]:
        if not ordered:
            return []
        first = ordered[0]
        least = Priority.INTERACTIVE if first.priority == Priority.INTERACTIVE else max(Priority)
        alike = [job for job in ordered if job.request.kind == first.request.kind and job.priority <= least][:most]
        for job in alike:
            job.stage = Stage.RUNNING
        return [job for job in alike if job.segmentation.set_running_or_notify_cancel()]

    def _add(self, waiter: Waiter, job: Job) -> None:
        job.waiters.add(waiter)
        waiter.jobs.add(job)
        self._file(job)

    def _top(self, project: str) -> Job | None:
        """A project's next job; one without any is forgotten."""
        heap = self._heaps[project]
        while heap:
            priority, number = heap[0]
            first = self._queued.get(number)
            if first is not None and first.priority == priority:
                return first
            heapq.heappop(heap)
        del self._heaps[project]
        if project not in self._of_project:
            self._turns.pop(project, None)
        return None

    def _has_place(self, priority: Priority, project: str) -> bool:
        """Whether an image of that priority and project may be fetched now."""
        extra = self._reserve * max(0, Priority.BATCH - priority)
        if self._begun and all(job.project != project for job in self._begun):
            extra += self._reserve
        held = len({job.source for job in self._begun})
        return self._loading < self._downloads + extra and held < self._places + extra

    def _file(self, job: Job) -> None:
        if job.number in self._queued:
            heap = self._heaps.setdefault(job.project, [])
            heapq.heappush(heap, (job.priority, job.number))
            own = self._of_project[job.project]
            if len(heap) > 2 * len(own) + _OUTDATED:
                queued = (one for one in own if one.number in self._queued)
                self._heaps[job.project] = sorted((one.priority, one.number) for one in queued)

    def _name(self, job: Job, source: str) -> None:
        self._jobs.setdefault(source, {})[job.request.kind] = job
        job.names.append(source)

    def _identify(self, job: Job, digest: str) -> bool:
        known = self._jobs.get(digest, {}).get(job.request.kind)
        if known is None:
            job.source = digest
            self._name(job, digest)
            return True
        self._remove(job)
        for source in job.names:
            self._name(known, source)
        for waiter in job.waiters:
            waiter.jobs.discard(job)
            self._add(waiter, known)
        known.results += job.results
        known.number = min(known.number, job.number)
        return False

    def _still_wanted(self, job: Job) -> bool:
        if not job.waiters:
            self._drop(job)
        return bool(job.waiters)

    def _drop(self, job: Job) -> None:
        self._remove(job)
        job.segmentation.cancel()
        for result in job.results:
            result.cancel()

    def _remove(self, job: Job) -> None:
        self._queued.pop(job.number, None)
        self._begun.discard(job)
        own = self._of_project.get(job.project, set())
        own.discard(job)
        if not own:
            self._of_project.pop(job.project, None)
        for waiter in job.waiters:
            waiter.jobs.discard(job)
        for source in job.names:
            if self._jobs.get(source, {}).get(job.request.kind) is job:
                del self._jobs[source][job.request.kind]
                if not self._jobs[source]:
                    del self._jobs[source]
