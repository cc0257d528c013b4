"""Tickets on Redis, carried by Dramatiq: any number of worker processes on any number of machines take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from ml_backend.runs.queues.base import QueueError

NAMESPACE = "int-backend"
QUEUE = "runs"
ACTOR = "ticket"
TICKETS_PER_WORKER = 3
"""A worker prepares one micro-batch while the models are at another, and one ticket may be a training's for minutes.
Where nothing trains, the third is one more micro-batch: so a killed worker leaves up to three to the others."""

_WORKER_SECONDS = 15
_DEAD_AFTER_MS = 15_000
_MAINTENANCE = 50_000  # of a million commands; Dramatiq looks for tickets of dead workers that often
_LABEL_STUDIO_KEYS = ("rq:queues", "rq:workers", "rq:queue:*", "rq:job:*")
_MAX_SCANNED = 20_000

# KEYS: waiting ids, messages by id, workers. ARGV: text of a run's tickets, seconds after which a worker counts as
# gone. Answers with the number of live workers and of that run's waiting tickets. By Redis's clock.
_COUNT = """
local now = tonumber(redis.call('TIME')[1])
local workers = redis.call('ZCOUNT', KEYS[3], now - tonumber(ARGV[2]), '+inf')
local waiting = 0
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local message = redis.call('HGET', KEYS[2], id)
  if message and string.find(message, ARGV[1], 1, true) then waiting = waiting + 1 end
end
return {workers, waiting}
"""
# KEYS: workers. ARGV: name of a worker, seconds after which a worker counts as gone.
_BEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
return redis.status_reply('OK')
"""


class RedisQueue:
    """`RunQueue` on Redis. Safe between threads; survives restarts of Redis, whatever these lose.

    For a run, about `TICKETS_PER_WORKER` tickets per live worker wait at most, however often it is woken.

    Args:
        url: ``redis://[:password@]host:port/number``, ``rediss://...`` or ``unix://...``.
        namespace: what the keys begin with.

    Raises:
        ValueError: ``url`` is no address of a Redis.
    """

    def __init__(self, url: str, *, namespace: str = NAMESPACE) -> None:
        network: dict[str, Any] = {"socket_connect_timeout": 5, "socket_keepalive": True}
        if url.startswith("unix://"):
            network = {}
        try:
            self.client = redis.Redis.from_url(url, health_check_interval=15, **network)
        except ValueError as error:
            raise ValueError(f"REDIS_URL is not an address like redis://redis:6379/1 ({error})") from None
        self.where = _shown(url)
        self.number = int(self.client.get_connection_kwargs().get("db") or 0)
        self._workers_key = f"{namespace}:workers"
        self._keys = (f"{namespace}:{QUEUE}", f"{namespace}:{QUEUE}.msgs", self._workers_key)
        self._count = self.client.register_script(_COUNT)
        self._beat = self.client.register_script(_BEAT)
        # No middleware: the ledger counts attempts and knows overdue leases; Dramatiq only carries.
        self.broker = RedisBroker(  # type: ignore[no-untyped-call]
            client=self.client,
            namespace=namespace,
            middleware=[],
            heartbeat_timeout=_DEAD_AFTER_MS,
            maintenance_chance=_MAINTENANCE,
        )

    def wake(self, run_id: str) -> None:
        """Top the run's waiting tickets up to what the live workers can use, at least one."""
        with self._reached():
            workers, waiting = self._counted(run_id)
            for _ in range(max(1, TICKETS_PER_WORKER * workers) - waiting):
                self.broker.enqueue(Message(queue_name=QUEUE, actor_name=ACTOR, args=(run_id,), kwargs={}, options={}))

    def close(self) -> None:
        self.client.close()

    def waiting(self, run_id: str) -> int:
        """How many tickets of the run wait. Raises ``QueueError``."""
        with self._reached():
            return self._counted(run_id)[1]

    def workers(self) -> int:
        """How many worker processes are alive. Raises ``QueueError``."""
        with self._reached():
            return self._counted("")[0]

    def beat(self, worker: str) -> None:
        """Say that the worker is alive; every few seconds. Raises ``QueueError``."""
        with self._reached():
            self._beat(keys=[self._workers_key], args=[worker, _WORKER_SECONDS])

    def leave(self, worker: str) -> None:
        """Say that the worker is gone. Raises ``QueueError``."""
        with self._reached():
            self.client.zrem(self._workers_key, worker)

    def check(self) -> None:
        """Make sure that Redis answers and that its database is not Label Studio's.

        Raises:
            QueueError: it cannot be reached.
            SharedDatabaseError: Label Studio keeps its own queues there.
        """
        with self._reached():
            self.client.ping()
            if _is_label_studios(self.client):
                raise SharedDatabaseError(
                    f"Label Studio keeps its own queues in database {self.number} of Redis at {self.where} (keys "
                    f"rq:*); take another number of that server: REDIS_URL=redis://.../{self.number + 1}"
                )

    def _counted(self, run_id: str) -> tuple[int, int]:
        workers, waiting = self._count(keys=list(self._keys), args=[f'"{run_id}"', _WORKER_SECONDS])
        return int(workers), int(waiting)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError as error:
            raise QueueError(f"Redis at {self.where} refuses the password in REDIS_URL ({error})") from None
        except redis.RedisError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise QueueError(
                f"Redis at {self.where} cannot be used ({reason}); check REDIS_URL and that the server runs"
            ) from None


class SharedDatabaseError(ValueError):
    """The database number of Redis is in use by Label Studio; the message names another."""


def _is_label_studios(client: Any) -> bool:
    """Whether keys of RQ, which Label Studio's own queues are made with, lie in this database."""
    if client.exists(*_LABEL_STUDIO_KEYS[:2]):
        return True
    seen = 0
    for pattern in _LABEL_STUDIO_KEYS[2:]:
        cursor = 0
        while True:
            cursor, keys = client.scan(cursor, match=pattern, count=1000)
            seen += 1000
            if keys:
                return True
            if not cursor or seen >= _MAX_SCANNED:
                break
    return False


def _shown(url: str) -> str:
    """The address without name, password and number."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path or url.partition("?")[0]
