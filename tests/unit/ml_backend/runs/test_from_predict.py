"""What ``/predict`` leaves to runs: an annotator must get neither two predictions of a task nor none."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.runs.errors import LedgerError
from ml_backend.runs.from_predict import PredictRuns
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import RunsError
from ml_backend.runs.queues.base import QueueError
from ml_backend.runs.types import Run, RunKind, TaskResult, TaskState
from ml_backend.storage.database import Database, StoreError
from tests.integration.ledger.kit import SPEC

VERSION = SPEC.model_version


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield made
    made.close()


@dataclass
class Taking:
    """What makes runs; raises ``error`` instead."""

    error: Exception | None = None
    asked: list[tuple[int, str, Any, tuple[int, ...]]] = field(default_factory=list)

    def hand_over(self, project: int, label_config: str, extra_params: Any, tasks: Collection[int]) -> Any:
        self.asked.append((project, label_config, extra_params, tuple(tasks)))
        if self.error:
            raise self.error
        return SimpleNamespace(id="4")


def asking(database: Database, taking: Any = None) -> PredictRuns:
    return PredictRuns(database, taking or Taking())


def begun(database: Database, *tasks: int, **changes: Any) -> tuple[Ledger, Run]:
    ledger = Ledger(database)
    return ledger, ledger.create(replace(SPEC, **changes), tasks)


def test_a_task_is_the_runs_from_the_beginning_and_pushed_only_once_somebody_is_at_it(database: Database) -> None:
    ledger, run = begun(database, 1, 2, 3, 4, 5)
    lease = ledger.lease(run.id, "host:1:x", 4)
    assert lease is not None
    results = [TaskResult(1, TaskState.DONE), TaskResult(2, TaskState.ABSTAINED), TaskResult(3, TaskState.FAILED)]
    ledger.finish(lease, results)
    made, every = asking(database), range(1, 8)
    assert made.pushed("7", VERSION, every) == {1, 2, 4}
    assert made.taken("7", VERSION, every) == {1, 2, 4, 5}
    assert made.taken("7", VERSION, [5, 6]) == {5}
    assert made.taken("7", VERSION, []) == frozenset()


def test_only_the_run_of_that_project_and_version_that_predicts_and_is_under_way_counts(database: Database) -> None:
    made = asking(database)
    assert made.taken("7", VERSION, [1]) == frozenset()
    begun(database, 1, kind=RunKind.TRAIN)
    begun(database, 1, model_version="another")
    begun(database, 1, request=SPEC.request.model_copy(update={"project": 8}))
    assert made.taken("7", VERSION, [1]) == frozenset()
    ledger, run = begun(database, 1, 2)
    assert made.taken("7", VERSION, [1, 2, 3]) == {1, 2}
    assert made.taken("7", "a third", [1]) == frozenset()
    assert made.taken("9", VERSION, [1]) == frozenset()
    assert made.taken("seven", VERSION, [1]) == frozenset()
    ledger.cancel(run.id)
    assert made.taken("7", VERSION, [1, 2]) == frozenset()


@pytest.mark.parametrize("count", [499, 500, 501, 1001])
def test_of_any_number_of_tasks_none_is_forgotten(database: Database, count: int) -> None:
    begun(database, *range(1, count + 1))
    assert asking(database).taken("7", VERSION, range(count + 3)) == set(range(1, count + 1))


def test_a_database_that_is_away_takes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreError("the database cannot be used", transient=True)

    begun(database, 1)
    monkeypatch.setattr(database, "read", away)
    assert asking(database).taken("7", VERSION, [1]) == frozenset()


@pytest.mark.parametrize(
    ("error", "taken"),
    [
        (None, True),
        (QueueError("Redis is away"), True),
        (LedgerError("it ended just now"), False),
        (RunsError("no label"), False),
        (StoreError("the disk is full"), False),
    ],
)
def test_what_is_late_becomes_a_run_unless_there_can_be_none(
    database: Database, error: Exception | None, taken: bool
) -> None:
    taking = Taking(error)
    assert asking(database, taking).take("7", "<View/>", {"prompt": "a cat"}, [1, 2]) is taken
    assert taking.asked == [(7, "<View/>", {"prompt": "a cat"}, (1, 2))]


def test_a_project_without_a_number_has_no_runs(database: Database) -> None:
    taking = Taking()
    assert asking(database, taking).take("seven", "<View/>", None, [1]) is False
    assert taking.asked == []
