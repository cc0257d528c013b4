"""Databases that earlier versions made: they open, and nothing in them is lost.

``database-0.1.0.db`` was made by the code of 0.1.0 (revision 0002): two projects, three results, and three runs, of
which one is finished, one stopped, and one active with three final, two leased and three pending tasks.
``database-0001.db`` was made by the same code at revision 0001: projects and results only. The others are that of
0.1.0, opened by the last code of each later revision, which added what was new: ``database-0003.db`` the annotations of
the recorded events and a chosen adapter, ``database-0004.db`` two clicks and two versions of a project, of which the
second was rolled back, ``database-0005.db`` an entry of the audit log and a promotion, which wrote itself into it,
``database-0006.db`` two verdicts on images of the finished run.
PostgreSQL gets the rows of the files in the tables of that revision.
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

from int_model.learning.bundle import unpack
from int_model.runner.results import StoredResult
from int_model.runner.store import ResultKey
from ml_backend.learning.versions import Versions
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunKind, RunRequest, RunState, TaskState
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.audit import Audit
from ml_backend.storage.clicks import ClickLog, LoggedClick
from ml_backend.storage.database import Database, StoreError
from ml_backend.storage.migrations import config
from ml_backend.storage.reviews import Reviews, Verdict
from ml_backend.storage.store import Project, Store
from tests.integration.ledger.kit import check, done, spec
from tests.support.annotation_events import recorded_events

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
    connection.execute(text("SET LOCAL session_replication_role = replica"))  # no trigger writes a second time
    with engine.connect() as reading:
        for name in source.tables.keys() - {"alembic_version"}:
            rows = [dict(row) for row in reading.execute(select(source.tables[name])).mappings()]
            if rows:
                connection.execute(insert(target.tables[name]), rows)
    engine.dispose()
    for name in target.tables.keys() & {"runs", "run_leases", "clicks", "promotions", "audit"}:
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


LATER = [(f"database-{revision}.db", revision) for revision in ("0003", "0004", "0005", "0006")]


def test_there_is_a_file_of_every_revision() -> None:
    """Whoever adds a revision adds the file that the code before it makes."""
    assert [revision for _, revision in [("", "0001"), ("", "0002"), *LATER]] == REVISIONS


@pytest.mark.parametrize(("name", "revision"), LATER)
def test_annotations_and_runs_of_later_revisions_are_all_there(open_old: OpenOld, name: str, revision: str) -> None:
    database = open_old(name, revision)
    annotations = Annotations(database)
    kept = {one.id: (one.task, one.was_cancelled, one.lead_time) for one in annotations.of_project(1)}
    recorded = [event for event in recorded_events() if event["action"] == "ANNOTATION_CREATED"]
    skipped = next(event["annotation"] for event in recorded if event["annotation"]["was_cancelled"])
    assert sorted(kept) == [3, 4]
    assert kept[3] == (skipped["task"], True, skipped["lead_time"])
    assert annotations.corrected(1).annotations == {4}
    again = recorded[0]["annotation"]["id"]
    annotations.record(recorded[0])
    assert again not in {one.id for one in annotations.of_project(1)}, "what was deleted stays deleted"
    ledger = Ledger(database)
    assert [run.state for run in ledger.runs()] == [RunState.ACTIVE, RunState.STOPPED, RunState.FINISHED]
    for run in ledger.runs():
        check(database, run.id)
    assert Store(database).adapter_of("1") == "ab12cd34"
    payload = Store(database).get_result(ResultKey("a" * 64, "polyp", "nano-int-0123456789abcdef"))
    assert payload is not None
    assert len(StoredResult.unpack(payload).objects) == 1
    lease = ledger.lease(ledger.unfinished()[0].id, "host:2:b", 10)
    assert lease is not None
    ledger.finish(lease, done(*lease.tasks))
    assert ledger.unfinished() == []


@pytest.mark.parametrize(("name", "revision"), LATER[1:])
def test_clicks_and_versions_of_later_revisions_are_all_there(open_old: OpenOld, name: str, revision: str) -> None:
    database = open_old(name, revision)
    clicks = ClickLog(database).of_tasks(2, [201])[201]
    assert clicks == [
        LoggedClick(
            201, "Tier ü", (60, 80), ((10.0, 20.0), (30.5, 4.0)), (1, 0), ((1.0, 2.0, 30.0, 40.0),), "ab" * 32,
            "int-nano-int-33333333",
        ),
        LoggedClick(201, "Tier ü", (60, 80), ((11.0, 20.0),), (1,)),
    ]  # fmt: skip
    versions = Versions(database)
    second, first = versions.of_project(2)
    assert (second.name, first.name, second.parent, first.parent) == ("v2", "v1", first.id, "")
    assert (first.report, first.corrections, first.run) == ({"worst": [["a", 0.1]]}, "c1", "3")
    assert unpack(versions.payload(second.id) or b"", base="sam1")[0].outlines["polyp"].slot == 2
    assert versions.names(2, first.id) == ["int-nano-int-44444444"]
    moves = [(move.how, move.who, move.adapter, move.former) for move in versions.history(2)][::-1]
    assert moves[:3] == [
        ("gate", "the gate", first.id, ""),
        ("gate", "the gate", second.id, first.id),
        ("rollback", "anna", first.id, second.id),
    ]
    assert versions.serving(2).name == ("v1" if revision == "0004" else "v2")
    before = len(Audit(database).entries(9))
    versions.promote(2, "base", who="carla")  # and the log of actions, new or old, writes itself
    newest, *older = Audit(database).entries(9)
    assert (newest.who, newest.action, len(older)) == ("carla", "promote", before)
    if revision >= "0005":
        assert [(entry.who, entry.place, entry.action, entry.what) for entry in older] == [
            ("berta", "", "promote", f"project 2: from {first.id} to {second.id}"),
            ("user anna", "10.0.0.7", "start", "project 2"),
        ]
    with pytest.raises(StoreError, match="append-only"), database.write() as connection:
        connection.execute(text("DELETE FROM audit"))


def test_verdicts_are_all_there(open_old: OpenOld) -> None:
    reviews = Reviews(open_old("database-0006.db", "0006"))
    judged = [one for one in reviews.page(1, 0, 10) if one.verdict is not None]
    assert [(one.task, one.verdict, one.note, one.who) for one in judged] == [
        (102, Verdict.WRONG, "the tail is missing, ü", "berta"),
        (101, Verdict.ACCEPT, "", "anna"),
    ]
    assert reviews.put(1, 102, None, "", "berta")
    assert reviews.counts(1) == {"": 3, "accept": 1, "skip": 0, "wrong": 0}


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
