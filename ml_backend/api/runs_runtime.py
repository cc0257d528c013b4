"""Runs inside the HTTP service: it makes them, shows them, and without Redis does them itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from int_model.core.caches import LruCache
from ml_backend.api.run_actions.form import Choices
from ml_backend.api.run_pictures import Pictures
from ml_backend.context import AppContext
from ml_backend.runs import rows
from ml_backend.runs.from_predict import PredictRuns
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.types import TaskRecord
from ml_backend.runs.undo import Undoing
from ml_backend.runs.verify import Verifying
from ml_backend.storage.reviews import Reviews

_REMARKS = 100
_log = logging.getLogger(__name__)


class RunsRuntime:
    """Between `start` and `close`, in the service's event loop; close it before the context.

    Args:
        context: without Label Studio in it, runs can be looked at only.

    Attributes:
        ledger: where runs are looked at and cancelled.
        runs: starts runs and goes on with them.
        trainings: starts runs that train, or None if the backend does not know Label Studio.
        late_tasks: takes what ``/predict`` cannot do in time, or None if it is to take nothing.
        tasks_address: of a task in Label Studio: a format of project and task; "" where it is unknown.
        choices: what the form of a new run offers, or None if the backend does not know Label Studio.
        remarks: what was said when a run was begun or joined, by its id; of the last ones that this process began.
        undoing, verifying: take runs back, compare them with Label Studio; None if the backend does not know it.
        client: Label Studio, or None if the backend does not know it.
        reviews: what people think of runs' images.
        pictures: of tasks, or None if the backend does not know Label Studio, and runs cannot be started.

    Raises:
        ValueError: REDIS_URL is no address.
    """

    def __init__(self, context: AppContext) -> None:
        settings, client = context.settings, context.client
        self._stopping = threading.Event()
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        self._redis = RedisQueue(redis_url) if redis_url else None
        self._worker = context.worker() if client is not None and self._redis is None else None
        if self._worker is None:
            self._local = LocalQueue(_nothing, context.ledger, kinds=())
        else:
            self._local = LocalQueue(self._worker.work, context.ledger, kinds=self._worker.kinds)
        self.ledger = context.ledger
        self._database = context.store.database
        base = settings.label_studio_public_url or settings.label_studio_url
        self.tasks_address = f"{base}/projects/{{}}/data?task={{}}" if base else ""
        self.runs = context.runs(self._redis or self._local)
        self.trainings = None if client is None else context.trainings(self._redis or self._local)
        self.pictures = None if client is None else Pictures(client, context.facilities)
        self.choices = None if context.pushing is None else Choices(context.pushing)
        self.remarks: LruCache[str, tuple[str, ...]] = LruCache(_REMARKS)
        self.client, self.reviews = client, Reviews(context.store.database)
        self.undoing = None if client is None else Undoing(client, self.ledger, context.store.database)
        self.verifying = None if client is None else Verifying(client, self.ledger, context.store.database)
        self.late_tasks: PredictRuns | None = None
        if client is not None and client.tokens.kind != "none" and settings.runs_from_predict:
            self.late_tasks = PredictRuns(context.store.database, self.runs)

    @property
    def workers(self) -> Callable[[], int] | None:
        """How many worker processes live, or None if the backend does the work itself. Blocking."""
        return self._redis.workers if self._redis else None

    @property
    def suits(self) -> Callable[[str], bool] | None:
        """Whether the backend's own models are those of a run, or None if it does no runs. Blocking."""
        return self._worker.suits if self._worker else None

    def doubtful(self, run_id: str, skip: int, limit: int) -> list[TaskRecord]:
        """Annotated tasks of a run, the least certain first. Blocking; raises ``StoreError``, ``UnknownRunError``."""
        with self._database.read() as connection:
            return rows.doubtful(connection, run_id, skip, limit)

    def stopping(self) -> bool:
        """Whether the backend is about to end."""
        return self._stopping.is_set()

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


async def _nothing(_: Any) -> bool:
    return False
