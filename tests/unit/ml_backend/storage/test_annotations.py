"""Annotations at the limits of what one transaction takes; on SQLite, as they are the same on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.clicks import ClickLog, LoggedClick
from ml_backend.storage.database import Database

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.close()


def annotation(number: int, task: int | None = None, size: int = 0) -> Annotation:
    shown = [{"x": "y" * size}]
    return Annotation(id=number, task=task or number, result=shown, created_at=NOON, updated_at=NOON)


def click(task: int) -> LoggedClick:
    return LoggedClick(task, "Frog", (60, 80), ((1.0, 2.0),), (1,))


@pytest.mark.parametrize("count", [199, 200, 201, 401])
def test_many_are_kept_read_and_forgotten(database: Database, count: int) -> None:
    annotations = Annotations(database)
    annotations.upsert(7, [annotation(number) for number in range(1, count + 1)])
    assert [one.id for one in annotations.of_project(7)] == list(range(1, count + 1))
    assert annotations.corrected(7).tasks == annotations.count(7) == count
    annotations.forget_tasks(7, range(2, count + 1))
    assert [one.id for one in annotations.of_project(7)] == [1]


def test_what_is_on_deleted_tasks_goes_and_nothing_else(database: Database) -> None:
    annotations, log = Annotations(database), ClickLog(database)
    for project in (7, 8):
        annotations.upsert(project, [annotation(10 * project + task, task) for task in (1, 2, 3)])
        for task in (1, 2, 3):
            log.record(project, click(task))
    annotations.forget_tasks(7, [3, 1])
    assert [one.task for one in annotations.of_project(7)] == [2]
    assert sorted(log.of_tasks(7, [1, 2, 3])) == [2]
    assert [one.task for one in annotations.of_project(8)] == [1, 2, 3]
    assert sorted(log.of_tasks(8, [1, 2, 3])) == [1, 2, 3]
    annotations.forget_tasks(7, [])
    assert annotations.count(7) == 1
    annotations.forget_tasks(8)
    assert list(annotations.of_project(8)) == []
    assert log.of_tasks(8, [1, 2, 3]) == {}
    assert annotations.count(7) == 1
    annotations.upsert(8, [annotation(81, 1)])
    assert annotations.count(8) == 0, "what was deleted stays deleted"


def test_only_what_people_finished_can_be_learned_from(database: Database) -> None:
    annotations = Annotations(database)
    skipped = annotation(2).model_copy(update={"was_cancelled": True})
    annotations.upsert(7, [annotation(1), skipped, annotation(3, 1)])
    found = annotations.corrected(7)
    assert (found.annotations, found.tasks, len(found.digest)) == ({1, 3}, 1, 16)
    assert annotations.corrected(8).annotations == frozenset()
    annotations.delete(7, [3])
    assert annotations.corrected(7).digest != found.digest


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_a_result_may_have_exactly_8_mb(database: Database, more: int, kept: bool) -> None:
    annotations = Annotations(database)
    frame = len('[{"x":""}]')
    annotations.upsert(7, [annotation(1, size=8 * 1024 * 1024 - frame + more)])
    (found,) = annotations.of_project(7)
    assert (found.result is not None) is kept
