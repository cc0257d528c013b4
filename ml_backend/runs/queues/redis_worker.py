"""Takes tickets off Redis, has this process work on their runs, and makes new tickets where Redis lost some."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable

import dramatiq

from ml_backend.runs.errors import UnknownRunError
from ml_backend.runs.queues.base import QueueError, Work
from ml_backend.runs.queues.redis_queue import ACTOR, QUEUE, TICKETS_PER_WORKER, RedisQueue
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_POLL_MS = 100
_MAX_RUN_ID = 64


class TicketWorker:
    """One worker process's side of the queue, between `start` and `stop`.

    Args:
        queue: where the tickets are; closed by its owner.
        work: does one micro-batch of a run; called by several threads at a time.
        unfinished: ids of the active runs that have work left.
        name: unique among all workers, e.g. ``host:pid:random``.
        suits: whether this worker's models are those of the run; a ticket of another run goes back.
        tidy: called every few seconds by the reconciler, for the ledger's housekeeping.
        reconcile_seconds: how often tickets are compared with the ledger, and a sign of life is given.
        rest_seconds: how long a thread waits after a ticket that it had to give back.
    """

    def __init__(
        self,
        queue: RedisQueue,
        work: Work,
        unfinished: Callable[[], Iterable[str]],
        *,
        name: str,
        suits: Callable[[str], bool] = lambda _: True,
        tidy: Callable[[], object] = lambda: None,
        reconcile_seconds: float = 3.0,
        rest_seconds: float = 1.0,
    ) -> None:
        self._queue = queue
        self._work = work
        self._unfinished = unfinished
        self._name = name
        self._suits = suits
        self._tidy = tidy
        self._every = reconcile_seconds
        self._rest = rest_seconds
        self._stopping = threading.Event()
        self._troubles: dict[str, str] = {}
        dramatiq.actor(broker=queue.broker, actor_name=ACTOR, queue_name=QUEUE)(self._use)
        self._threads = dramatiq.Worker(queue.broker, worker_threads=TICKETS_PER_WORKER, worker_timeout=_POLL_MS)
        self._threads.queue_prefetch = TICKETS_PER_WORKER  # what a busy worker holds, an idle one cannot have
        self._reconciler = threading.Thread(target=self._reconcile, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to take tickets. Redis need not be there yet."""
        for queue in (QUEUE, f"{QUEUE}.DQ"):
            logging.getLogger(f"dramatiq.worker.ConsumerThread({queue})").addFilter(_not_the_connection)
        self._threads.start()
        self._reconciler.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Take no more tickets; waits so long for the micro-batches at work. Unused tickets go back."""
        self._stopping.set()
        self._threads.stop(timeout=round(seconds * 1000))
        self._reconciler.join(seconds)
        try:
            self._queue.leave(self._name)
        except QueueError as error:
            _log.info("%s", error)

    def _use(self, run_id: str) -> None:
        """The Dramatiq actor: one ticket. Never raises: Dramatiq would only drop the error."""
        if not isinstance(run_id, str) or len(run_id) > _MAX_RUN_ID or self._stopping.is_set():
            return
        try:
            if not self._suits(run_id):
                self._queue.wake(run_id)
                self._stopping.wait(self._rest)
                return
            if self._work(run_id) and not self._stopping.is_set():
                self._queue.wake(run_id)
        except QueueError as error:
            self._trouble("the queue", error)
        except StoreError as error:
            self._trouble("the ledger", error)
            self._stopping.wait(self._rest)
        except UnknownRunError as error:
            _log.info("a ticket is thrown away: %s", error)  # of a ledger that this one has replaced
        except Exception:  # noqa: BLE001 - logged with its traceback
            # The ledger still has the tasks; the reconciler makes another ticket for them.
            _log.exception("a ticket of run %s failed", run_id)
            self._stopping.wait(self._rest)

    def _reconcile(self) -> None:
        while True:
            self._step("the queue", self._give_sign_of_life)
            self._step("the ledger", self._tidy)
            self._step("the ledger or the queue", self._wake_all)
            if self._stopping.wait(self._every * random.uniform(0.7, 1.3)):  # noqa: S311 only spreads load
                return

    def _give_sign_of_life(self) -> None:
        self._queue.beat(self._name)

    def _wake_all(self) -> None:
        for run_id in self._unfinished():
            self._queue.wake(run_id)

    def _step(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the reconciler must outlive whatever is broken for a while
            self._trouble(what, error)
        else:
            text = self._troubles.pop(what, None)
            if text and text not in self._troubles.values():
                _log.warning("over: %s", text)

    def _trouble(self, what: str, error: Exception) -> None:
        """Log a trouble once, until it is over or another one."""
        text = str(error) or type(error).__name__
        known = text in self._troubles.values()
        self._troubles[what] = text
        if not known:
            _log.warning("%s", text)


def _not_the_connection(record: logging.LogRecord) -> bool:
    """The reconciler says once that Redis is gone; Dramatiq would say it every three seconds."""
    return "connection error" not in str(record.msg) and "Restarting consumer" not in str(record.msg)
