"""Databases that earlier versions made: they open, and nothing in them is lost.

``database-0.1.0.db`` was made by the code of 0.1.0 (revision 0002): two projects, three results, and three runs, of
which one is finished, one stopped, and one active with three final, two leased and three pending tasks.
``database-0001.db`` was made by the same code at revision 0001: projects and results only. PostgreSQL gets the rows of
the files in the tables of that revision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    create_engine,
    insert,
    inspect,
    select,
    text,
)

from int_model.runner.results import StoredResult
from int_model.runner.store import ResultKey
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunKind, RunRequest, RunState, TaskState
from ml_backend.storage.database import Database
from ml_backend.storage.migrations import config
from ml_backend.storage.store import Project, Store
from tests.integration.ledger.kit import check, done, spec

FOLDER = Path(__file__).parent
CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="mask" toName="image"><Label value="Polyp"/>'
    "</PolygonLabels></View>"
)
PROJECTS = [
    Project("1", "polyp", CONFIG),
    Project("2", {"prompt": "a camouflaged animal", "epsilon": 2}, CONFIG.replace("Polyp", "Tier ü")),
]
OpenOld = Callable[[str, str], Database]


@pytest.fixture
def open_old(url: str, opened: Callable[[], Database]) -> OpenOld:
    """Opens a copy of a file, given its revision."""

    def open_it(name: str, revision: str) -> Database:
        if url.startswith("sqlite:///"):
            shutil.copy(FOLDER / name, url.removeprefix("sqlite:///"))
            return opened()
        empty = Database(url, migrated=False)
        with empty.write() as connection:
            fill(connection, FOLDER / name, revision)
        empty.close()
        return opened()

    return open_it


def fill(connection: Connection, file: Path, revision: str) -> None:
    """Make the tables of a revision, with the rows of a file."""
    made = config()
    made.attributes["connection"] = connection
    command.upgrade(made, revision)
    engine = create_engine(f"sqlite:///file:{file}?mode=ro&immutable=1&uri=true")
    source, target = MetaData(), MetaData()
    source.reflect(engine)
    target.reflect(connection)
    with engine.connect() as reading:
        for name in source.tables.keys() - {"alembic_version"}:
            rows = [dict(row) for row in reading.execute(select(source.tables[name])).mappings()]
            if rows:
                connection.execute(insert(target.tables[name]), rows)
    engine.dispose()
    for name in target.tables.keys() & {"runs", "run_leases"}:
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), 100)"))


def check_projects_and_results(database: Database) -> None:
    store = Store(database)
    assert store.projects() == PROJECTS
    payload = store.get_result(ResultKey("a" * 64, "polyp", "nano-int-0123456789abcdef"))
    assert payload is not None
    (found,) = StoredResult.unpack(payload).objects
    assert (found.name, found.score, int(found.mask.sum())) == ("polyp", 0.75, 600)
    assert store.get_result(ResultKey("b" * 64, "polyp", "nano-int-0123456789abcdef")) is not None
    assert store.get_result(ResultKey("a" * 64, "long " * 100, "nano-vlm_box-0123456789abcdef")) == payload


def states(ledger: Ledger, run_id: str) -> dict[int, str]:
    return {record.task: record.state.value for record in ledger.records(run_id)}


def test_a_database_of_0_1_0_opens_with_all_that_is_in_it(open_old: OpenOld) -> None:
    database = open_old("database-0.1.0.db", "0002")
    check_projects_and_results(database)
    ledger = Ledger(database)
    active, stopped, ended = ledger.runs()
    assert (ended.state, stopped.state, active.state) == (RunState.FINISHED, RunState.STOPPED, RunState.ACTIVE)
    assert stopped.why == "the project's labeling config was changed"
    assert states(ledger, ended.id) == {
        101: "done", 102: "done", 103: "done", 104: "abstained", 105: "failed", 106: "skipped",
    }  # fmt: skip
    first, *_, failed, _ = ledger.records(ended.id)
    assert (first.score, first.prediction, first.seconds, failed.reason) == (
        0.601,
        9101,
        0.25,
        "the file is not an image",
    )
    assert states(ledger, active.id) == {
        201: "done", 202: "failed", 203: "abstained", 204: "leased", 205: "leased",
        206: "pending", 207: "pending", 208: "pending",
    }  # fmt: skip
    for run in (ended, stopped, active):
        check(database, run.id)
    assert (active.spec.project, active.spec.model_version, active.spec.extra_params) == (
        2,
        "int-nano-int-33333333",
        {"prompt": "a camouflaged animal", "epsilon": 2},
    )
    assert active.spec.request == RunRequest(project=2, view=4, limit=8, set_model_version=True)
    assert stopped.spec.request == RunRequest(project=1, only_missing=True, include_annotated=True)
    assert {run.spec.kind for run in (ended, stopped, active)} == {RunKind.PREDICT}
    assert {run.spec.prompt for run in (ended, stopped, active)} == {"polyp"}


def test_the_active_run_of_an_old_database_goes_on(open_old: OpenOld) -> None:
    database = open_old("database-0.1.0.db", "0002")
    ledger = Ledger(database)
    (active,) = ledger.unfinished()
    lease = ledger.lease(active.id, "host:2:b", 10)
    assert lease is not None
    assert dict(lease.attempts) == {204: 2, 205: 2, 206: 1, 207: 1, 208: 1}  # the old lease has expired
    ledger.finish(lease, done(*lease.tasks))
    assert ledger.get(active.id).state is RunState.FINISHED
    assert ledger.progress(active.id).counts[TaskState.DONE] == 6
    assert ledger.retry(active.id) == 1
    check(database, active.id)
    assert ledger.create(spec(), [1, 2]).id not in {"1", "2", "3"}


def test_the_newest_tables_can_be_taken_back_and_made_again(open_old: OpenOld) -> None:
    database = open_old("database-0.1.0.db", "0002")
    ledger = Ledger(database)
    runs = ledger.runs()
    before = [(run, ledger.records(run.id)) for run in runs]
    made = config()
    with database.write() as connection:
        made.attributes["connection"] = connection
        command.downgrade(made, "0002")
        command.upgrade(made, "head")
    assert [(run, ledger.records(run.id)) for run in ledger.runs()] == before
    check_projects_and_results(database)


def test_a_database_from_before_there_were_runs(open_old: OpenOld) -> None:
    database = open_old("database-0001.db", "0001")
    check_projects_and_results(database)
    assert Ledger(database).runs() == []


def test_a_database_from_before_there_were_migrations_is_adopted(
    open_old: OpenOld, opened: Callable[[], Database]
) -> None:
    database = open_old("database-0001.db", "0001")
    with database.write() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.downgrade(made, "0001")
        connection.execute(text("DROP TABLE alembic_version"))
    for _ in range(2):
        adopted = opened()
        check_projects_and_results(adopted)
        with adopted.read() as connection:
            assert {"runs", "run_tasks", "run_leases"} <= set(inspect(connection).get_table_names())


REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]
NO_DATA = {"alembic_version", "run_pace"}  # the latter told how fast a run was, and is gone
SPECIAL = {
    "state": "finished",
    "kind": "predict",
    "spec": json.dumps({"request": {"project": 7}}),
    "extra_params": "null",
}


def made_up(column: Column[Any]) -> Any:
    """A value for a column that tells nothing."""
    if column.name in SPECIAL:
        return SPECIAL[column.name]
    match column.type:
        case Boolean():
            return True
        case Integer():
            return 3
        case Float():
            return 0.5
        case LargeBinary():
            return b"bytes"
        case DateTime():
            return datetime(2026, 1, 2, tzinfo=UTC)
        case _:
            return "7"


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_schema_goes_forward_with_a_row_in_each_table(
    url: str, opened: Callable[[], Database], revision: str
) -> None:
    old = Database(url, migrated=False)
    before = MetaData()
    with old.write() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, revision)
        before.reflect(connection)
        tables = {name: table for name, table in before.tables.items() if name not in NO_DATA}
        for table in tables.values():
            connection.execute(insert(table), {column.name: made_up(column) for column in table.columns})
    old.close()
    assert tables
    database, after = opened(), MetaData()
    with database.read() as connection:
        after.reflect(connection)
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == REVISIONS[-1]
        for name, table in tables.items():
            kept = [column.name for column in table.columns if column.name in after.tables[name].columns]
            compared = [name for name in kept if name != "spec" and not isinstance(table.columns[name].type, DateTime)]
            rows = connection.execute(select(*(after.tables[name].columns[column] for column in compared)))
            assert tuple(made_up(table.columns[column]) for column in compared) in [tuple(row) for row in rows], name
