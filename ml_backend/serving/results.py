"""What the models find in an image: from the store where it is known, else through the queue, once for all who ask."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence

from int_model.runner.results import StoredResult
from int_model.runner.store import ResultKey
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.queue import ImageQueue, Job, Priority, Request, Waiter
from ml_backend.serving.tasks import Tasks
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)


def image_key(task_id: int | None, address: str) -> str:
    """Stands for an address in a task; no digest of a file is equal to it. For a thread: `data:` addresses are long."""
    return "@" + hashlib.sha256(f"{task_id} {address}".encode("utf-8", "surrogatepass")).hexdigest()


class Results:
    """Results by image, prompt and strategy; lives in one event loop.

    Args:
        facilities: of the service.
        queue: orders the images; shared with the engine.
    """

    def __init__(self, facilities: Facilities, queue: ImageQueue) -> None:
        self._facilities = facilities
        self._queue = queue
        self._engine = facilities.engine
        self._store = facilities.store
        self._threads = facilities.threads
        self._status = facilities.status
        self._metrics = facilities.metrics
        self._tasks = Tasks()
        self._closing = False
        # Two who wait on behalf of others: so that late work goes on, and that a run does what people look at first.
        self._background = Waiter(Priority.BATCH)
        self._hurried = Waiter(Priority.PREDICT)

    @property
    def in_background(self) -> int:
        """How many jobs go on though their requests have been answered."""
        return len(self._background.jobs)

    async def close(self) -> None:
        """Drop what is on its way."""
        self._closing = True
        await self._tasks.close()
        self._queue.close()

    # --- for those who wait

    async def of_image(self, waiter: Waiter, requests: Sequence[Request]) -> list[StoredResult]:
        """What is found for each request. Call `leave` afterwards, whatever came of it.

        Raises:
            BusyError: too much is waiting already.
            FetchError: the file cannot be had.
            ImageError: it is no image.
            EngineError: the models failed, or cannot be asked.
        """
        results: list[asyncio.Future[StoredResult]] = []
        for request in requests:
            results.append(asyncio.get_running_loop().create_future())
            self._queue.join(waiter, request).results.append(results[-1])
        self._load_next()
        return list(await asyncio.gather(*results))

    def hurry(self, requests: Sequence[Request]) -> None:
        """Someone looks at an image now: if it is on its way for a batch run, it goes before other such work."""
        for request in requests:
            if self._queue.find(request) is not None:
                self._queue.join(self._hurried, request)
        self._load_next()

    def set_priority(self, waiter: Waiter, priority: Priority) -> None:
        """Make everything that somebody waits for more or less urgent."""
        self._queue.set_priority(waiter, priority)
        self._load_next()

    def leave(self, waiter: Waiter, *, keep: bool = False) -> None:
        """Somebody waits no longer; what is left to do for them alone is dropped, or kept with the lowest priority."""
        self._queue.leave(waiter, self._background if keep else None)
        self._load_next()

    # --- from a file to results

    def _load_next(self) -> None:
        while not self._closing and (jobs := self._queue.next_to_load()):
            self._tasks.start(self._load(jobs))

    async def _load(self, jobs: list[Job]) -> None:
        """Fetch and decode one image. What the store knows of it needs no decoding."""
        image = None
        try:
            data, digest = await self._facilities.fetch(jobs[0].request.address, jobs[0].request.task_id)
            jobs = await self._unknown(self._queue.fetched(jobs, digest))
            if jobs:
                self._engine.check()
                image = await self._facilities.decode(data)
        except Exception as error:  # noqa: BLE001 - told to all who wait
            for job in jobs:
                self._finish(job, error)
        finally:
            jobs = self._queue.end_load(jobs, image)
            self._load_next()
        for job in jobs:
            self._tasks.start(self._infer(job))

    async def _unknown(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that the store cannot answer."""
        unknown = []
        for job in jobs:
            found = await self._threads(self._look_up, job)
            self._metrics.cache.labels("miss" if found is None else "hit").inc()
            if found is None:
                unknown.append(job)
            else:
                self._finish(job, found)
        return unknown

    def _look_up(self, job: Job) -> StoredResult | None:
        try:
            payload = self._store.get_result(self._key(job))
            return None if payload is None else StoredResult.unpack(payload)
        except (StoreError, ValueError) as error:
            self._status.report("the store of results", str(error))
            return None

    async def _infer(self, job: Job) -> None:
        """Wait for the models, and keep what they found."""
        started = time.monotonic()
        try:
            segmentation = await asyncio.wrap_future(job.segmentation)
            self._metrics.images.inc()
            self._metrics.stage.labels("models").observe(time.monotonic() - started)
            result = await self._threads(StoredResult.of, segmentation)
            if not result.objects:
                _log.info("nothing found for %r: %s", job.request.prompt.text, result.reason)
            try:
                payload = await self._threads(result.pack)
                await self._threads(self._store.put_result, self._key(job), payload)
            except StoreError as error:
                self._status.report("the store of results", error)
        except Exception as error:  # noqa: BLE001 - told to all who wait
            self._finish(job, error)
        else:
            self._finish(job, result)

    def _key(self, job: Job) -> ResultKey:
        request = job.request
        identity = self._facilities.identity.adapted(request.adapter)
        return ResultKey(job.source, request.prompt.text, identity.cache_version_of(request.strategy))

    def _finish(self, job: Job, outcome: StoredResult | Exception) -> None:
        self._queue.finish(job)
        if isinstance(outcome, Exception) and job.waiters <= {self._background, self._hurried}:
            self._status.report(f"task {job.request.task_id}", outcome)
        for result in job.results:
            if result.done():
                continue
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)
        self._load_next()
