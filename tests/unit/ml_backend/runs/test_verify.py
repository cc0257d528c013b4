"""Ledger against Label Studio, without models: what is missing, doubled or gone, task by task and page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.runs.errors import LedgerError, UnknownRunError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import Run, TaskResult, TaskState
from ml_backend.runs.verify import Compared, Verifying
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC, check
from tests.support.label_studio import TOKEN, LabelStudio, label_studio, with_uploads

OURS, TASKS = SPEC.model_version, range(1, 8)
FAILED, ABSTAINED = 6, 7


class World:
    """A finished run of seven tasks: the sixth failed, in the seventh nothing was found."""

    def __init__(self, fake: LabelStudio, database: Database, client: LabelStudioClient) -> None:
        self.fake, self.database, self.ledger = fake, database, Ledger(database)
        self.run = self._finished()
        self.verifying = Verifying(client, self.ledger, database)

    def _finished(self) -> Run:
        run = self.ledger.create(SPEC, TASKS)
        lease = self.ledger.lease(run.id, "host:1:x", 10)
        assert lease is not None
        states = {FAILED: TaskState.FAILED, ABSTAINED: TaskState.ABSTAINED}
        self.predict(*(task for task in TASKS if task != FAILED))
        self.ledger.finish(lease, [TaskResult(task, states.get(task, TaskState.DONE)) for task in TASKS])
        return self.ledger.get(run.id)

    def predict(self, *tasks: int, version: str = OURS) -> None:
        self.fake.keep([{"task": task, "model_version": version, "score": 0.5, "result": []} for task in tasks])

    def compare(self, progress: Callable[[Compared], None] = lambda _: None) -> tuple[Any, ...]:
        found = self.verifying.compare(self.run.id, progress)
        return found.there, found.missing, found.doubled, found.deleted


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    with label_studio(with_uploads(len(TASKS))) as fake:
        client = LabelStudioClient(fake.url, TOKEN, retries=0)
        yield World(fake, database, client)
        client.close()
    database.close()


def test_nothing_is_wrong_where_every_task_has_its_prediction(world: World) -> None:
    assert world.compare() == (6, (), (), 0)


@pytest.mark.parametrize("page", [1, 2, 100])
def test_what_differs_is_named_on_every_page(world: World, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr("ml_backend.runs.verify.PAGE", page)
    for task in (1, 4, ABSTAINED):
        del world.fake.predictions[task]
    world.predict(1, 2, version="another")
    world.predict(3, 5, version=OURS)
    del world.fake.tasks[2]
    seen: list[Compared] = []
    assert world.compare(seen.append) == (2, (1, 4, ABSTAINED), (3, 5), 1)
    assert seen[-1].missing == (1, 4, ABSTAINED)
    assert len(seen) == {1: 6, 2: 4, 100: 2}[page]
    assert Compared() == Compared(0, (), (), 0, 0)
    assert (seen[0].looked, seen[-1].looked) == (min(page, 5), 6)


def test_of_doubles_the_oldest_stays(world: World) -> None:
    first = {task: world.fake.predictions[task][0]["id"] for task in (3, 5)}
    world.predict(3, 3, 5)
    world.predict(3, version="another")
    assert world.verifying.remove_doubles(world.run.id, (3, 5)) == 3
    left = {task: [one["id"] for one in world.fake.predictions[task] if one["model_version"] == OURS] for task in first}
    assert left == {task: [number] for task, number in first.items()}
    assert world.compare() == (6, (), (), 0)
    assert world.verifying.remove_doubles(world.run.id, TASKS) == 0


def test_what_is_missing_is_done_again_by_retry(world: World) -> None:
    assert world.verifying.mark_missing(world.run.id, [1, FAILED, ABSTAINED, 99]) == 2, (
        "of the failed one none was told"
    )
    check(world.database, world.run.id)
    assert {record.task for record in world.ledger.records(world.run.id, TaskState.FAILED)} == {1, FAILED, ABSTAINED}
    assert world.ledger.retry(world.run.id) == 3
    with pytest.raises(LedgerError, match="under way"):
        world.verifying.mark_missing(world.run.id, [2])
    world.ledger.cancel(world.run.id)
    assert world.verifying.mark_missing(world.run.id, [2]) == 1


def test_a_run_that_is_unknown_is_said(world: World) -> None:
    for ask in (world.verifying.compare, lambda run: world.verifying.mark_missing(run, [1])):
        with pytest.raises(UnknownRunError):
            ask("99")
