"""Annotations in the database: stored once, whatever comes twice or in another order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from typing import Any

import pytest
from sqlalchemy import select

from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import TaskResult, TaskState
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from ml_backend.storage.tables import AnnotationRow
from tests.integration.ledger.kit import spec

FIRST = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
PROJECTS = count(1)


def version(number: int, *, annotation: int = 5) -> Annotation:
    """The annotation as it was ``number`` minutes after its creation."""
    return Annotation(
        id=annotation,
        task=9_000_000_000,
        result=[{"id": f"r{number}", "value": {"text": ["ü \0 \ud800"]}}],
        lead_time=1.5 * number,
        completed_by=3,
        created_at=FIRST,
        updated_at=FIRST + timedelta(minutes=number),
    )


def changed(annotation: Annotation, **changes: Any) -> Annotation:
    return annotation.model_copy(update=changes)


@pytest.fixture
def annotations(database: Database) -> Annotations:
    return Annotations(database)


def test_what_is_stored_comes_back(annotations: Annotations) -> None:
    skipped = changed(version(2, annotation=7), was_cancelled=True, result=[], lead_time=None, completed_by=None)
    annotations.upsert(1, [version(1), skipped, version(1, annotation=2**60)])
    annotations.upsert(2, [version(3)])
    assert list(annotations.of_project(1)) == [version(1), skipped, version(1, annotation=2**60)]
    assert list(annotations.of_project(2)) == [version(3)]
    assert [annotations.count(project) for project in (1, 2, 3)] == [3, 1, 0]


def test_every_order_of_events_ends_the_same(annotations: Annotations) -> None:
    """An older version after a newer one, an update after the deletion, everything twice: nothing changes."""
    for order in permutations([1, 2, 3, None]):
        project = next(PROJECTS)
        for step in (*order, *order):
            if step is None:
                annotations.delete(project, [5])
            else:
                annotations.upsert(project, [version(step)])
        assert list(annotations.of_project(project)) == []
        assert annotations.count(project) == 0
    for order in permutations([1, 2, 3]):
        project = next(PROJECTS)
        for step in (*order, *order):
            annotations.upsert(project, [version(step)])
        assert list(annotations.of_project(project)) == [version(3)]


def test_nothing_of_a_deleted_annotation_is_kept(annotations: Annotations, database: Database) -> None:
    annotations.upsert(1, [changed(version(1), parent_prediction=8)])
    annotations.delete(1, [5, 6])
    with database.read() as connection:
        for row in connection.execute(select(AnnotationRow.__table__)):
            assert (row.deleted, row.task, row.result, row.parent_prediction, row.completed_by) == (True, *[None] * 4)


def test_only_what_is_new_counts_as_new(annotations: Annotations) -> None:
    annotations.upsert(1, [version(1), version(1, annotation=6)])
    with annotations._database.read() as connection:
        received = connection.scalars(select(AnnotationRow.received_at).order_by(AnnotationRow.received_at)).all()
    since = datetime.fromtimestamp(received[-1] + 0.001, UTC)
    assert annotations.count(1, since) == 0
    threading.Event().wait(0.05)
    annotations.upsert(1, [version(1), version(2, annotation=6), version(1, annotation=7)])
    assert annotations.count(1, since) == 2, "what came again does not count, what changed does"
    assert annotations.count(1) == 3


def test_a_project_is_read_in_pages(annotations: Annotations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.storage.annotations._PAGE", 3)
    for number in (1, 5, 6, 7, 9, 12):
        annotations.upsert(1, [version(number, annotation=number)])
    reading = annotations.of_project(1)
    assert next(reading).id == 1
    annotations.delete(1, [7])
    assert [one.id for one in reading] == [5, 6, 9, 12]


def test_results_that_are_too_large_are_told_and_not_kept(
    annotations: Annotations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ml_backend.storage.annotations._MAX_BYTES", 200)
    large = changed(version(2), result=[{"rle": [0] * 500}])
    with caplog.at_level(logging.WARNING):
        annotations.upsert(1, [version(1), large])
    assert list(annotations.of_project(1)) == [changed(large, result=None)], "and no older result stands for it"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the results of annotation 5 of project 1 are not kept: they have 1")
    assert "rle" not in said


def test_the_version_of_a_prediction_that_a_run_pushed_is_known(annotations: Annotations, database: Database) -> None:
    ledger = Ledger(database)
    run = ledger.create(spec(project=1), [11, 12])
    lease = ledger.lease(run.id, "host:1:x", 2)
    assert lease
    ledger.finish(lease, [TaskResult(task, TaskState.DONE, 0.5, prediction=100 + task) for task in (11, 12)])
    begun = changed(version(1), task=11)
    annotations.upsert(
        1, [changed(begun, parent_prediction=111), changed(begun, id=6, parent_prediction=112), changed(begun, id=7)]
    )
    annotations.upsert(1, [changed(begun, id=8, parent_prediction=111, model_version="another")])
    versions = {one.id: one.model_version for one in annotations.of_project(1)}
    assert versions == {5: run.spec.model_version, 6: "", 7: "", 8: "another"}


def test_events_at_the_same_moment(opened: Callable[[], Database]) -> None:
    stores, barrier = [Annotations(opened()) for _ in range(4)], threading.Barrier(4)

    def write(store: Annotations, number: int) -> None:
        barrier.wait()
        for annotation in range(1, 21):
            store.upsert(1, [version(number, annotation=annotation)])

    threads = [threading.Thread(target=write, args=(store, number)) for number, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(stores[0].of_project(1)) == [version(3, annotation=annotation) for annotation in range(1, 21)]
