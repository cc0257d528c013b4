"""Images put into the queue of the models directly, as if their files had been fetched."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from ml_backend.serving.queue import ImageQueue, Job, Priority, Request, Waiter

_numbers = itertools.count()
_lock = threading.Lock()


def make_queue(size: int = 1000) -> ImageQueue:
    """A queue that fetches as much as it has."""
    return ImageQueue(places=10_000, downloads=10_000, reserve=0, size=size)


def put(
    queue: ImageQueue, image: Image, prompt: TaskPrompt, priority: Priority = Priority.PREDICT, strategy: str = ""
) -> Job:
    """A job that is ready for the models. Raises ``BusyError``."""
    name = str(next(_numbers))
    with _lock:
        job = queue.join(Waiter(priority), Request(f"@{name}", name, None, prompt, strategy))
        jobs = queue.next_to_load()
    assert jobs == [job]
    queue.end_load(queue.fetched(jobs, name), image)
    job.segmentation.add_done_callback(lambda _: queue.finish(job))
    return job


def submit(
    queue: ImageQueue, image: Image, prompt: TaskPrompt, priority: Priority = Priority.PREDICT, strategy: str = ""
) -> Future[Segmentation]:
    """What the models will say of it."""
    return put(queue, image, prompt, priority, strategy).segmentation
