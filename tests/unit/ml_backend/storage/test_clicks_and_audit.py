"""The logs of clicks and of actions at their limits; on SQLite, as they are the same on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.settings import Settings
from ml_backend.storage import audit as audit_module
from ml_backend.storage.audit import Audit, note_by_command, operator
from ml_backend.storage.clicks import ClickLog, LoggedClick
from ml_backend.storage.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.close()


def click(task: int, label: str = "Frog", count: int = 1) -> LoggedClick:
    points = tuple((float(n), 2.0) for n in range(count))
    boxes = tuple((float(n), 1.0, 2.0, 3.0) for n in range(count))
    return LoggedClick(task, label, (60, 80), points, tuple(n % 2 for n in range(count)), boxes, "abc", "v-1")


def test_clicks_come_back_as_they_were_by_task_in_order(database: Database) -> None:
    log = ClickLog(database)
    for one in (click(1, "a"), click(2, "b"), click(1, "c")):
        log.record(7, one)
    log.record(8, click(1, "another project"))
    assert log.of_tasks(7, [2, 1, 3]) == {1: [click(1, "a"), click(1, "c")], 2: [click(2, "b")]}
    assert log.of_tasks(7, []) == {}


@pytest.mark.parametrize(("count", "first"), [(199, 0), (200, 0), (201, 1), (1000, 800)])
def test_of_very_many_points_the_last_200_count(database: Database, count: int, first: int) -> None:
    log, given = ClickLog(database), click(1, count=count)
    log.record(7, given)
    kept = log.of_tasks(7, [1])[1][0]
    assert kept == replace(given, points=given.points[first:], signs=given.signs[first:], boxes=given.boxes[first:])


def test_labels_that_a_database_cannot_hold_are_mended(database: Database) -> None:
    log = ClickLog(database)
    log.record(7, click(1, "a\0b\ud800" + "x" * 300))
    label = log.of_tasks(7, [1])[1][0].label
    assert label == "ab?" + "x" * 197


def test_many_tasks_are_read_and_forgotten_in_parts(database: Database) -> None:
    log, tasks = ClickLog(database), [0, *range(1, 1300, 100), 499, 500, 501, 999, 1000, 1001]
    for task in tasks:
        log.record(7, click(task))
        log.record(8, click(task))
    assert sorted(log.of_tasks(7, range(1301))) == sorted(set(tasks))
    log.delete(7, [one for one in range(1301) if one != 501])
    assert sorted(log.of_tasks(7, range(1301))) == [501]
    assert sorted(log.of_tasks(8, range(1301))) == sorted(set(tasks))
    log.delete(8)
    assert log.of_tasks(8, range(1301)) == {}
    assert list(log.of_tasks(7, [501])) == [501]


def test_the_log_of_actions_has_bounds(database: Database) -> None:
    audit = Audit(database)
    audit.note("w" * 300, "p" * 300, "a" * 50, "x" * 2000)
    audit.note("w" * 200, "p" * 200, "a" * 40, "x" * 1000)
    long, exact = (audit.entries(2)[n] for n in (1, 0))
    assert (long.who, long.place, long.action, long.what) == ("w" * 200, "p" * 200, "a" * 40, "x" * 1000)
    assert replace(long, id=exact.id, at=exact.at) == exact
    assert audit.entries(0) == []
    assert [one.id for one in audit.entries(9, before=exact.id)] == [long.id]
    assert audit.entries(9, before=long.id) == []


@pytest.mark.parametrize("error", [KeyError("uid 1001"), OSError("no user")])
def test_a_user_without_a_name_is_called_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nameless() -> str:
        raise error

    assert operator()[0].startswith("user ")
    monkeypatch.setattr(audit_module.getpass, "getuser", nameless)
    monkeypatch.setattr(audit_module.socket, "gethostname", lambda: "machine-7")
    assert operator() == ("user unknown of this machine", "machine-7")


def test_a_command_is_written_down_with_who_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Database] = []
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda one: (closed.append(one), close(one)))
    settings = Settings(data_dir=tmp_path)
    note_by_command(settings, "fix", "project 7")
    assert len(closed) == 1
    database = Database.of(settings)
    (entry,) = Audit(database).entries(9)
    database.close()
    assert (entry.who, entry.place, entry.action, entry.what) == (*operator(), "fix", "project 7")
