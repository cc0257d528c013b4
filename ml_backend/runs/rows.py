"""What the ledger does to rows within one transaction. `ml_backend.runs.ledger` says which locks are held."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from ml_backend.runs.errors import UnknownRunError
from ml_backend.runs.types import Lease, Run, RunSpec, RunState, TaskRecord, TaskResult, TaskState
from ml_backend.storage.database import epoch_now
from ml_backend.storage.tables import LeaseRow, RunRow, TaskRow

Counts = Counter[TaskState]
"""By how much the number of tasks in each state changes."""

ANNOTATED = (TaskState.DONE, TaskState.ABSTAINED)
"""The states in which a task has a prediction of its run."""

MOST_ATTEMPTS = 5
SUSPECT = 2
"""A task whose workers died so often is leased alone, to who holds nothing else: it may be its image's fault."""

_DIED = (
    f"its workers died {MOST_ATTEMPTS} times, at last with nothing but this image at work: it is probably the image "
    "that ends them, by its size or by damage"
)
_NONE: Mapping[str, Any] = {}
_CHUNK = 5000
_CHUNK_SECONDS = 2.0
_INSERT = {
    "sqlite": "INSERT OR IGNORE INTO run_tasks (run, task) SELECT :run, value FROM json_each(:tasks)",
    "postgresql": "INSERT INTO run_tasks (run, task) SELECT :run, unnest(CAST(:tasks AS bigint[])) "
    "ON CONFLICT DO NOTHING",
}


def key_of(run_id: str) -> int:
    """The key of a run's id. Raises ``UnknownRunError`` for what can be none."""
    if not (run_id.isascii() and run_id.isdecimal() and len(run_id) <= 18):
        raise UnknownRunError(run_id)
    return int(run_id)


def run_of(row: Row[Any]) -> Run:
    """A row of ``runs``."""
    finished = None if row.finished_at is None else _moment(row.finished_at)
    spec, state = RunSpec.of_text(row.spec), RunState(row.state)
    return Run(str(row.id), spec, state, row.why, _moment(row.created_at), finished, row.stage)


def record_of(row: Row[Any]) -> TaskRecord:
    """A row of ``run_tasks``."""
    return TaskRecord(row.task, TaskState(row.state), row.attempts, row.score, row.reason, row.seconds, row.prediction)


def doubtful(connection: Connection, run_id: str, skip: int, limit: int) -> list[TaskRecord]:
    """The run's annotated tasks, the lowest scores first; those without a score, of which nothing is known, before."""
    wanted = (
        select(TaskRow.__table__)
        .where(TaskRow.run == key_of(run_id), TaskRow.state.in_([state.value for state in ANNOTATED]))
        .order_by(TaskRow.score.is_not(None), TaskRow.score, TaskRow.task)
        .offset(skip)
        .limit(limit)
    )
    return [record_of(row) for row in connection.execute(wanted)]


def tell_stage(connection: Connection, key: int, stage: str) -> None:
    """Say in words what a run is at."""
    connection.execute(update(RunRow).where(RunRow.id == key).values(stage=clean(stage)[:500]))


def clean(reason: str) -> str:
    """A reason that every database takes: no NUL, no half characters, at most 2000 characters."""
    return reason.replace("\0", "").encode("utf-8", "replace").decode()[:2000]


def chunks(task_ids: Iterable[int]) -> Iterator[list[int]]:
    """Ids in lists of thousands, ascending within each; smaller lists where they come slowly."""
    chunk: set[int] = set()
    begun = time.monotonic()  # only sets how often rows are written
    for task in task_ids:
        chunk.add(task)
        if len(chunk) >= _CHUNK or time.monotonic() - begun > _CHUNK_SECONDS:
            yield sorted(chunk)
            chunk, begun = set(), time.monotonic()
    if chunk:
        yield sorted(chunk)


def add_tasks(connection: Connection, key: int, tasks: Sequence[int]) -> int:
    """Insert pending tasks; those that are there stay as they are. Returns how many are new."""
    dialect = connection.dialect.name
    given = json.dumps(tasks) if dialect == "sqlite" else list(tasks)
    return connection.execute(text(_INSERT[dialect]), {"run": key, "tasks": given}).rowcount


def state_of(connection: Connection, key: int, *, lock: bool = False) -> RunState:
    """The run's state; with ``lock`` it stays so until the transaction ends."""
    wanted = select(RunRow.state).where(RunRow.id == key)
    state = connection.scalar(wanted.with_for_update() if lock else wanted)
    if state is None:
        raise UnknownRunError(str(key))
    return RunState(state)


@dataclass(frozen=True, slots=True)
class Front:
    """What a run has to give: its state, where to look for pending tasks first, how many there are."""

    state: RunState
    next_task: int
    pending: int


def front_of(connection: Connection, key: int) -> Front:
    """The front of a run, which may move on at once."""
    row = connection.execute(
        select(RunRow.state, RunRow.next_task, RunRow.pending).where(RunRow.id == key)
    ).one_or_none()
    if row is None:
        raise UnknownRunError(str(key))
    return Front(RunState(row.state), row.next_task, row.pending)


def look_from(task: int, seen: int | None = None) -> dict[str, Any]:
    """The change of ``next_task``: down to this task; up only if it still is where it was seen."""
    lower = RunRow.next_task > task
    moves = lower if seen is None else lower | (RunRow.next_task == seen)
    return {"next_task": case((moves, literal(task, BigInteger)), else_=RunRow.next_task)}


def choose(connection: Connection, key: int, owner: str, count: int, first: int, waiting: int) -> Sequence[int]:
    """Up to ``count`` pending tasks from ``first`` on; from below as well if more are waiting. Locked.

    A `SUSPECT` is chosen alone, for an owner that holds nothing else, and keeps its owner from all other tasks.
    """
    busy, worn = _holds(connection, owner)
    if worn > SUSPECT:
        return ()
    found = _from(connection, key, count, first, waiting)
    if found and found[0].attempts >= SUSPECT and not busy:
        return [found[0].task]
    good = [row.task for row in found if row.attempts < SUSPECT]
    if len(good) < len(found):
        good = [row.task for row in _from(connection, key, count, first, waiting, TaskRow.attempts < SUSPECT)]
    return good


def _holds(connection: Connection, owner: str) -> tuple[bool, int]:
    """Whether the owner has a lease of any run, and how often the most attempted task among them was leased."""
    own = select(func.max(TaskRow.attempts)).join(LeaseRow, TaskRow.lease == LeaseRow.id).where(LeaseRow.owner == owner)
    most = connection.scalar(own)
    return most is not None, most or 0


def _from(
    connection: Connection, key: int, count: int, first: int, waiting: int, *where: ColumnElement[bool]
) -> Sequence[Row[int, int]]:
    rows = _pending(connection, key, count, TaskRow.task >= first, *where)
    if len(rows) < min(count, waiting):
        rows = [*_pending(connection, key, count - len(rows), TaskRow.task < first, *where), *rows]
    return rows


def _pending(connection: Connection, key: int, count: int, *where: ColumnElement[bool]) -> Sequence[Row[int, int]]:
    return connection.execute(
        select(TaskRow.task, TaskRow.attempts)
        .where(TaskRow.run == key, TaskRow.state == TaskState.PENDING.value, *where)
        .order_by(TaskRow.task)
        .limit(count)
        .with_for_update(skip_locked=True)
    ).all()


def grant(connection: Connection, key: int, owner: str, tasks: Sequence[int], seconds: float) -> Lease:
    """Make a lease of locked pending tasks."""
    made = insert(LeaseRow).values(run=key, owner=owner, expires_at=epoch_now() + seconds).returning(LeaseRow.id)
    token = connection.execute(made).scalar_one()
    taken = connection.execute(
        update(TaskRow)
        .where(TaskRow.run == key, TaskRow.task.in_(tasks))
        .values(state=TaskState.LEASED.value, lease=token, attempts=TaskRow.attempts + 1)
        .returning(TaskRow.task, TaskRow.attempts)
    )
    return Lease(str(key), str(token), owner, {row.task: row.attempts for row in taken})


def reap(connection: Connection, which: ColumnElement[bool]) -> tuple[Counts, int | None]:
    """Take the tasks of these leases back, unless someone is writing under a lease right now.

    Their attempts count, as their workers fell silent; a task that had its `MOST_ATTEMPTS` fails. Returns the changes
    of the counters, and the lowest task that is pending again, or None.
    """
    silent = select(LeaseRow.id).where(which).with_for_update(skip_locked=True)
    tokens = connection.scalars(silent).all()
    if not tokens:
        return Counts(), None
    connection.execute(delete(LeaseRow).where(LeaseRow.id.in_(tokens)))
    worn = TaskRow.attempts >= MOST_ATTEMPTS
    found = connection.execute(
        update(TaskRow)
        .where(TaskRow.lease.in_(tokens))
        .values(
            lease=None,
            state=case((worn, literal(TaskState.FAILED.value)), else_=literal(TaskState.PENDING.value)),
            reason=case((worn, literal(_DIED)), else_=literal("")),
        )
        .returning(TaskRow.task, TaskRow.state)
    ).all()
    counts = Counts(TaskState(row.state) for row in found)
    counts[TaskState.LEASED] -= len(found)
    return counts, min((row.task for row in found if row.state == TaskState.PENDING.value), default=None)


def held(connection: Connection, lease: Lease) -> Sequence[int]:
    """The tasks still held under the lease, ascending; the lease is locked. Empty if it is lost."""
    token = connection.scalar(select(LeaseRow.id).where(LeaseRow.id == int(lease.token)).with_for_update())
    if token is None:
        return ()
    return connection.scalars(select(TaskRow.task).where(TaskRow.lease == token).order_by(TaskRow.task)).all()


def give_back(connection: Connection, lease: Lease, tasks: Collection[int]) -> None:
    """Make held tasks pending, as if they had not been leased."""
    connection.execute(
        update(TaskRow)
        .where(TaskRow.run == int(lease.run), TaskRow.task.in_(tasks))
        .values(state=TaskState.PENDING.value, lease=None, attempts=TaskRow.attempts - 1)
    )


def write_results(connection: Connection, key: int, results: Sequence[TaskResult]) -> None:
    """Write final states of held tasks."""
    rows = [
        {
            "of": result.task,
            "state": result.state.value,
            "score": result.score,
            "reason": clean(result.reason),
            "seconds": result.seconds,
            "prediction": result.prediction,
        }
        for result in results
    ]
    names = [name for name in rows[0] if name != "of"]
    connection.execute(
        update(TaskRow)
        .where(TaskRow.run == key, TaskRow.task == bindparam("of"))
        .values(lease=None, **{name: bindparam(name) for name in names}),
        rows,
    )


def withdraw(connection: Connection, key: int, tasks: Collection[int], to: TaskState, reason: str) -> int:
    """Make annotated tasks, whose predictions are gone, failed or skipped; returns how many. Settles the run, too."""
    counts = Counts()
    for state in ANNOTATED:
        moved = connection.execute(
            update(TaskRow)
            .where(TaskRow.run == key, TaskRow.task.in_(sorted(tasks)), TaskRow.state == state.value)
            .values(state=to.value, reason=reason, score=None, prediction=None)
        ).rowcount
        counts[state] -= moved
        counts[to] += moved
    settle(connection, key, counts)
    return counts[to]


def again(connection: Connection, key: int, state: TaskState) -> int:
    """Make final tasks pending; returns how many.

    One attempt stays counted: a worker that died may have pushed a prediction, and the next one must look.
    """
    return connection.execute(
        update(TaskRow)
        .where(TaskRow.run == key, TaskRow.state == state.value)
        .values(state=TaskState.PENDING.value, attempts=1, score=None, reason="", seconds=0.0, prediction=None)
    ).rowcount


def drop_lease(connection: Connection, lease: Lease) -> None:
    """Remove a lease under which nothing is held any more."""
    connection.execute(delete(LeaseRow).where(LeaseRow.id == int(lease.token)))


def settle(
    connection: Connection, key: int, counts: Counts, more: Mapping[str, Any] = _NONE, *, only: RunState | None = None
) -> bool:
    """Change the run's counters; an active run of which nothing is left is finished.

    Args:
        connection: its transaction changed the tasks accordingly, and gets the lock on the run here.
        key: the run.
        counts: the changes.
        more: other columns to change, see `look_from`.
        only: change nothing unless the run is in this state.

    Returns:
        Whether the run was there and in that state.
    """
    changes = {state.value: getattr(RunRow, state.value) + change for state, change in counts.items() if change}
    changes |= more
    wanted = update(RunRow).where(RunRow.id == key).values(changes or {"why": RunRow.why})
    if only is not None:
        wanted = wanted.where(RunRow.state == only.value)
    row = connection.execute(wanted.returning(RunRow.state, RunRow.pending, RunRow.leased)).one_or_none()
    if row is None:
        return False
    if row.state == RunState.ACTIVE.value and row.pending + row.leased == 0:
        ended = {"state": RunState.FINISHED.value, "finished_at": epoch_now()}
        connection.execute(update(RunRow).where(RunRow.id == key).values(ended))
    return True


def forget(connection: Connection, which: ColumnElement[bool]) -> None:
    """Remove runs that are still being prepared, with their tasks."""
    gone = delete(RunRow).where(which, RunRow.state == RunState.PREPARING.value).returning(RunRow.id)
    for key in connection.scalars(gone).all():
        connection.execute(delete(TaskRow).where(TaskRow.run == key))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
