"""What tests of the ledger share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from sqlalchemy import func, select, update

from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunRequest, RunSpec, TaskResult, TaskState
from ml_backend.storage.database import Database
from ml_backend.storage.tables import LeaseRow, TaskRow

SPEC = RunSpec(
    request=RunRequest(project=7),
    label_config="<View/>",
    extra_params={"prompt": "the animal"},
    model_version="int-nano-00c0ffee",
    prompt="the animal",
    strategy="int",
    config_hash="abc",
)


def spec(**changes: Any) -> RunSpec:
    """A run's description with changes, of the request or of what it meant."""
    asked = {name: changes.pop(name) for name in RunRequest.model_fields.keys() & changes.keys() - {"prompt"}}
    return replace(SPEC, request=SPEC.request.model_copy(update=asked), **changes)


def done(*tasks: int) -> list[TaskResult]:
    """Results of tasks that went well."""
    return [TaskResult(task, TaskState.DONE, 0.5, "", 0.1, 1000 + task) for task in tasks]


def let_expire(database: Database, *tokens: str) -> None:
    """Move the end of leases (all by default) into the past."""
    with database.write() as connection:
        change = update(LeaseRow).values(expires_at=LeaseRow.expires_at - 100_000)
        connection.execute(change.where(LeaseRow.id.in_([int(t) for t in tokens])) if tokens else change)


def counted(database: Database, run_id: str) -> dict[TaskState, int]:
    """The tasks by state, counted one by one."""
    with database.read() as connection:
        found = connection.execute(
            select(TaskRow.state, func.count()).where(TaskRow.run == int(run_id)).group_by(TaskRow.state)
        )
        counts = Counter({TaskState(state): number for state, number in found})
    return {state: counts[state] for state in TaskState}


def check(database: Database, run_id: str) -> None:
    """The run's counters are what its rows say, and leased rows are those of leases."""
    assert dict(Ledger(database).progress(run_id).counts) == counted(database, run_id)
    with database.read() as connection:
        odd = select(func.count()).where((TaskRow.state == "leased") != TaskRow.lease.is_not(None))
        assert connection.scalar(odd) == 0
        orphans = select(func.count()).where(TaskRow.lease.is_not(None), TaskRow.lease.not_in(select(LeaseRow.id)))
        assert connection.scalar(orphans) == 0
        idle = (
            select(func.count())
            .where(LeaseRow.id.not_in(select(TaskRow.lease).where(TaskRow.lease.is_not(None))))
            .select_from(LeaseRow)
        )
        assert connection.scalar(idle) == 0
