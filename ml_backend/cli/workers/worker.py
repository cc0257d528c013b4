"""``int-backend worker``: works on runs that others made, as long as the process lives. The models are loaded once."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from int_model.strategies.base import Segments
from ml_backend.cli.patience import wait_for_database
from ml_backend.cli.serve import check_data_folder, set_up_logging
from ml_backend.context import AppContext
from ml_backend.runs.manager import NO_LABEL_STUDIO, RunsError
from ml_backend.runs.owners import process_lives, this_host
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.queues.redis_worker import TicketWorker
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.settings import Settings

_log = logging.getLogger(__name__)
_STOP_SECONDS = 30.0
_LOOK = 0.2
Tell = Callable[[str], None]


def run(
    settings: Settings,
    tell: Tell,
    *,
    load: Callable[[], Segments] | None = None,
    identity: ModelIdentity | None = None,
) -> None:
    """Work until the process is told to stop.

    Args:
        settings: of the environment.
        tell: gets the lines for people.
        load: makes the strategy; the settings' models if None.
        identity: of those models; found from the profile if None.

    Raises:
        ValueError: a setting is missing or wrong.
        SharedDatabaseError: the database of Redis is Label Studio's.
        StoreError: the ledger cannot be opened.
        RuntimeError: the models cannot be loaded.
    """
    queue = RedisQueue(check(settings))
    set_up_logging(settings.log_level)
    check_data_folder(settings.data_dir)
    try:
        asyncio.run(_work(settings, queue, tell, load, identity))
    finally:
        queue.close()


def check(settings: Settings) -> str:
    """The address of Redis; raises `RunsError` where a worker's setting is missing, and says which."""
    if settings.redis_url is None or not settings.redis_url.get_secret_value():
        raise RunsError(
            "a worker needs REDIS_URL, e.g. redis://localhost:6379/1; without Redis, int-backend serve and int-backend "
            "annotate do the work themselves"
        )
    if not settings.label_studio_url:
        raise RunsError(NO_LABEL_STUDIO)
    return settings.redis_url.get_secret_value()


async def _work(
    settings: Settings,
    queue: RedisQueue,
    tell: Tell,
    load: Callable[[], Segments] | None,
    identity: ModelIdentity | None,
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stopping.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
    try:
        await asyncio.to_thread(queue.check)
    except QueueError as error:
        _log.warning("%s; the worker waits for it", error)
    await asyncio.to_thread(wait_for_database, settings, _log.warning, stopping=stopping.is_set)
    context = AppContext.open(settings, load=load, identity=identity, connected=True)
    tell(f"worker for runs; tickets from Redis at {queue.where}, ledger in {context.store.database.where}")
    if settings.label_studio_api_key is None:
        _log.warning("LABEL_STUDIO_API_KEY is not set; Label Studio will refuse what this worker asks and pushes")
    try:
        await context.start()
        if await _models_ready(context, stopping):
            tell(f"the models are ready; taking tickets as {context.projects.versions()[0].rpartition('-')[0]}")
            await _take_tickets(context, queue, stopping)
        tell("the worker has stopped; what it had not begun is left to others")
    finally:
        await context.close()


async def _models_ready(context: AppContext, stopping: asyncio.Event) -> bool:
    """Wait for the models: tickets taken before would only keep tasks from workers that have theirs."""
    while not stopping.is_set():
        status = context.facilities.engine.status
        if status.state == "ready":
            return True
        if status.state == "failed":
            raise RuntimeError(f"the models could not be loaded: {status.why}")
        await asyncio.sleep(_LOOK)
    return False


async def _take_tickets(context: AppContext, queue: RedisQueue, stopping: asyncio.Event) -> None:
    worker = context.worker()
    loop = asyncio.get_running_loop()
    tickets = TicketWorker(
        queue,
        lambda run_id: asyncio.run_coroutine_threadsafe(worker.work(run_id), loop).result(),
        lambda: [run.id for run in context.ledger.unfinished(worker.kinds)],
        name=worker.owner,
        suits=worker.suits,
        tidy=lambda: context.ledger.release_dead(this_host(), process_lives),
    )
    tickets.start()
    await stopping.wait()
    _log.info("stopping")
    stopped = asyncio.create_task(asyncio.to_thread(tickets.stop, _STOP_SECONDS))
    await worker.close()
    await stopped
