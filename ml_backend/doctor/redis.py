"""Redis, where batch runs are left to workers: whether it answers, is not Label Studio's own, and has workers."""

from __future__ import annotations

from ml_backend.doctor.diagnosis import Diagnosis, of_error, ok, warning
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.queues.redis_queue import RedisQueue, SharedDatabaseError
from ml_backend.settings import Settings

REDIS = "redis"


def examine_redis(settings: Settings) -> list[Diagnosis]:
    """One diagnosis, or none where REDIS_URL is not set: the backend does runs itself then."""
    if settings.redis_url is None or not settings.redis_url.get_secret_value():
        return []
    try:
        queue = RedisQueue(settings.redis_url.get_secret_value())
    except ValueError as error:
        return [of_error(REDIS, error, "correct REDIS_URL, e.g. redis://redis:6379/1")]
    try:
        queue.check()
        workers = queue.workers()
    except (SharedDatabaseError, QueueError) as error:
        return [of_error(REDIS, error, "check REDIS_URL, and that Redis runs")]
    finally:
        queue.close()
    if workers == 0:
        text = f"Redis at {queue.where} answers, but no worker takes work from it."
        return [warning(REDIS, text, "start at least one: int-backend worker")]
    plural = "" if workers == 1 else "s"
    return [ok(REDIS, f"Redis at {queue.where} answers; {workers} worker{plural} for runs.")]
