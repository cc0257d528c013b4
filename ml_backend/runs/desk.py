"""Runs inside the HTTP service: it makes them, shows them, and without Redis does them itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from ml_backend.api.run_pictures import Pictures
from ml_backend.api.runs import RunsAccess
from ml_backend.context import batch_client
from ml_backend.fetching.images import ImageFetcher
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.runs.batch import BatchWorker
from ml_backend.runs.from_predict import PredictRuns
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import Runs
from ml_backend.runs.owners import new_owner
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.serving.service import Service
from ml_backend.settings import Settings
from ml_backend.storage.store import Store

_log = logging.getLogger(__name__)


class RunsDesk:
    """Between `start` and `close`, in the service's event loop; close it before the service.

    Args:
        settings: of the environment.
        service: annotates, and hands over what is late.
        store: its database is the ledger's.
        client: Label Studio, or None: then runs can be looked at only.
        fetcher: for pictures.

    Raises:
        ValueError: REDIS_URL is no address.
    """

    def __init__(
        self,
        settings: Settings,
        service: Service,
        store: Store,
        client: LabelStudioClient | None,
        fetcher: ImageFetcher,
    ) -> None:
        self._stopping = threading.Event()
        ledger = Ledger(store.database)
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        self._redis = RedisQueue(redis_url) if redis_url else None
        self._pushing = batch_client(settings) if client is not None and self._redis is None else None
        self._worker: BatchWorker | None = None
        if self._pushing is not None:
            self._worker = BatchWorker(service, ledger, self._pushing, new_owner(), size=settings.run_batch)
        self._local = LocalQueue(_nothing if self._worker is None else self._worker.work, ledger)
        runs = Runs(
            ledger,
            client,
            self._redis or self._local,
            service.plan,
            default_prompt=settings.prompt,
            port=settings.port,
            known_projects=store.projects,
        )
        if client is not None and client.tokens.kind != "none" and settings.runs_from_predict:
            service.late_tasks = PredictRuns(store.database, runs)
        pictures = None if client is None else Pictures(client, fetcher, max_pixels=settings.max_image_pixels)
        self.access = RunsAccess(
            runs,
            pictures,
            workers=self._redis.workers if self._redis else None,
            suits=self._worker.suits if self._worker else None,
            stopping=self._stopping.is_set,
        )

    async def start(self) -> None:
        """Begin to work on runs, or check that Redis can be used.

        Raises:
            SharedDatabaseError: the database of Redis is Label Studio's.
        """
        if self._redis is not None:
            try:
                await asyncio.to_thread(self._redis.check)
            except QueueError as error:
                _log.warning("%s; runs can be made and wait for it", error)
        elif self._worker is not None:
            self._local.start()

    async def close(self) -> None:
        """Give back what is not begun."""
        self._stopping.set()
        self._local.close()
        if self._worker is not None:
            await self._worker.close()
        await self._local.aclose()
        if self._redis is not None:
            self._redis.close()
        if self._pushing is not None:
            await asyncio.to_thread(self._pushing.close)


async def _nothing(_: Any) -> bool:
    return False
