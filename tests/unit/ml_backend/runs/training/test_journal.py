"""The journal of a training: another process goes on where one ended, and never with what belongs to others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.runs.errors import UnknownRunError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.training.journal import TrainingJournal
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield made
    made.close()


def test_a_finished_step_is_found_by_the_same_run_on_the_same_examples(database: Database) -> None:
    journal = TrainingJournal(database, "1", "digest-a")
    assert journal.get("fold 1") is None
    journal.put("fold 1", "first")
    journal.put("fold 2", "second")
    journal.put("fold 1", "first, again")
    again = TrainingJournal(database, "1", "digest-a")
    assert (again.get("fold 1"), again.get("fold 2"), again.get("fold 3")) == ("first, again", "second", None)
    assert TrainingJournal(database, "2", "digest-a").get("fold 1") is None
    assert TrainingJournal(database, "1", "digest-b").get("fold 1") is None


def test_at_the_end_only_the_own_steps_are_forgotten(database: Database) -> None:
    own, other = TrainingJournal(database, "1", "digest-a"), TrainingJournal(database, "2", "digest-a")
    for journal in (own, other):
        journal.put("fold 1", "done")
    own.clear()
    assert own.get("fold 1") is None
    assert other.get("fold 1") == "done"


def test_people_see_what_the_training_is_at(database: Database) -> None:
    ledger = Ledger(database)
    run = ledger.create(SPEC, [1])
    TrainingJournal(database, run.id, "").tell("judging")
    assert ledger.get(run.id).stage == "judging"


def test_a_run_that_can_be_none_is_refused(database: Database) -> None:
    with pytest.raises(UnknownRunError):
        TrainingJournal(database, "first", "")
