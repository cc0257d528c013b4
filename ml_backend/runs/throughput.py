"""The throughput of a run: finished tasks counted by slots of a few seconds, so that tasks need no counting.

And who is at it: workers that live, and what silent ones still hold.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select

from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import LeaseRow, TaskRow, ThroughputRow

SLOT = 5
"""Seconds of one slot."""
WINDOW = 180
"""Seconds that the rate looks back."""


def add(connection: Connection, database: Database, key: int, tasks: int) -> None:
    """Count tasks that became final now. The run's row must be locked."""
    slot = int(_now(connection) // SLOT)
    values = {"run": key, "slot": slot, "tasks": tasks}
    connection.execute(database.upsert(ThroughputRow, values, {"tasks": ThroughputRow.tasks + tasks}))
    connection.execute(
        delete(ThroughputRow).where(ThroughputRow.run == key, ThroughputRow.slot < slot - 2 * WINDOW // SLOT)
    )


def rate(connection: Connection, key: int, finished_at: float | None) -> float | None:
    """Final tasks per second in the last `WINDOW` seconds (of a finished run: the last of its time), or None."""
    until = _now(connection) if finished_at is None else finished_at
    slots = (ThroughputRow.run == key, ThroughputRow.slot > (until - WINDOW) // SLOT)
    first, tasks = connection.execute(
        select(func.min(ThroughputRow.slot), func.sum(ThroughputRow.tasks)).where(*slots)
    ).one()
    if first is None:
        return None
    return float(tasks) / max(until - first * SLOT, 1.0)


def hands(connection: Connection, key: int, lease_seconds: float) -> tuple[int, int, float | None]:
    """Of a run: the workers that live, the tasks that silent ones hold, and in how many seconds these are free."""
    of_run, now = LeaseRow.run == key, epoch_now()
    living = select(func.count(LeaseRow.owner.distinct())).where(of_run, LeaseRow.expires_at >= now)
    late = of_run & (LeaseRow.expires_at < now + lease_seconds / 2)  # it is renewed every quarter of its time
    held = select(func.count(), func.max(LeaseRow.expires_at) - now).join(LeaseRow, TaskRow.lease == LeaseRow.id)
    tasks, left = connection.execute(held.select_from(TaskRow).where(late)).one()
    return connection.scalar(living) or 0, tasks, max(0.0, float(left)) if tasks else None


def _now(connection: Connection) -> float:
    return float(connection.execute(select(epoch_now())).scalar_one())
