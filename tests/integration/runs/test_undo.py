"""``runs undo``: exactly the predictions of one run go, and none that a person used; again and again if need be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import Run, RunRequest, RunSpec, TaskResult, TaskState
from ml_backend.runs.undo import REASON, Tally, Undoing
from ml_backend.storage.database import Database
from tests.integration.runs.test_web import PAGE, connected, finished, tasks
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

OURS, OTHERS = "int-nano-int-aaaaaaaa", "int-nano-int-bbbbbbbb"
TASKS = range(1, 61)


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(tasks={n: {"data": {"image": "x"}, "annotations": [], "drafts": []} for n in TASKS})
    with label_studio(made) as running:
        for version in (OTHERS, OURS):
            running.keep([{"task": n, "model_version": version, "score": 0.5, "result": []} for n in TASKS])
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.close()


def id_of(fake: LabelStudio, task: int, version: str = OURS) -> int:
    return next(int(entry["id"]) for entry in fake.predictions[task] if entry["model_version"] == version)


def make_run(ledger: Ledger, fake: LabelStudio, *, known: bool = True, finish: bool = True) -> Run:
    """A run of all tasks: every tenth was skipped, every seventh abstained; the ledger may know the predictions."""
    request = RunRequest(project=int(fake.project["id"]))
    run = ledger.create(RunSpec(request, "<View/>", None, OURS, "frog", "int", "0"), TASKS)
    lease = ledger.lease(run.id, "host:1:a", 100)
    assert lease is not None
    if finish:
        results = []
        for task in TASKS:
            state = TaskState.SKIPPED if task % 10 == 0 else TaskState.ABSTAINED if task % 7 == 0 else TaskState.DONE
            results.append(TaskResult(task, state, 0.5, prediction=id_of(fake, task) if known else None))
        ledger.finish(lease, results)
    return ledger.get(run.id)


def versions(fake: LabelStudio) -> dict[int, list[str]]:
    return {task: sorted(entry["model_version"] for entry in fake.predictions[task]) for task in TASKS}


@pytest.mark.parametrize("known", [True, False])
def test_only_the_runs_own_predictions_go(fake: LabelStudio, database: Database, known: bool) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake, known=known)
    fake.tasks[3]["annotations"] = [{"id": 1, "parent_prediction": id_of(fake, 3)}]
    fake.tasks[4]["annotations"] = [{"id": 2, "parent_prediction": id_of(fake, 4, OTHERS)}]
    fake.tasks[5]["drafts"] = [{"id": 3}]
    fake.tasks[6]["annotations"] = [{"id": 4, "parent_prediction": None}]
    del fake.tasks[8]
    with LabelStudioClient(fake.url) as client:
        undoing = Undoing(client, ledger, database)
        expected = Tally(deleted=60 - 6 - 3, kept=2, gone=1)
        assert undoing.count(run.id) == expected
        assert undoing.undo(run.id) == expected
        stay = {n for n in TASKS if n % 10 == 0} | {3, 5, 8}
        assert versions(fake) == {n: [OURS, OTHERS] if n in stay else [OTHERS] for n in TASKS}
        assert undoing.undo(run.id) == Tally(kept=2)
    progress = ledger.progress(run.id)
    assert progress.counts[TaskState.SKIPPED] == 60 - 2
    assert progress.counts[TaskState.DONE] + progress.counts[TaskState.ABSTAINED] == 2
    assert [record.reason for record in ledger.records(run.id, TaskState.SKIPPED, 0, 1)] == [REASON]
    assert ledger.retry(run.id, {TaskState.SKIPPED}) == 58


def test_after_a_restored_database_an_id_alone_proves_nothing(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    wrong = id_of(fake, 1)
    fake.predictions[1] = [{"id": wrong, "model_version": OTHERS, "result": []}]
    with LabelStudioClient(fake.url) as client:
        assert Undoing(client, ledger, database).undo(run.id).gone == 1
    assert [entry["id"] for entry in fake.predictions[1]] == [wrong]


def test_what_a_restored_database_brings_back_goes_again(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    older = {task: list(entries) for task, entries in fake.predictions.items()}
    with LabelStudioClient(fake.url) as client:
        undoing = Undoing(client, ledger, database)
        undoing.undo(run.id)
        fake.predictions |= older
        fake.tasks[3]["annotations"] = [{"id": 1, "parent_prediction": id_of(fake, 3)}]
        assert undoing.count(run.id) == undoing.undo(run.id) == Tally(deleted=60 - 6 - 1, kept=1)
        assert undoing.undo(run.id) == Tally(kept=1)
    stay = {n for n in TASKS if n % 10 == 0} | {3}  # those that the run skipped are not its own
    assert versions(fake) == {n: [OURS, OTHERS] if n in stay else [OTHERS] for n in TASKS}


def test_it_goes_on_where_it_was_interrupted(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    seen: list[int] = []

    class Dying(LabelStudioClient):
        def delete_prediction(self, prediction_id: int) -> None:
            if len(seen) == 31:
                raise LabelStudioError("gone away")
            seen.append(prediction_id)
            super().delete_prediction(prediction_id)

    with Dying(fake.url) as client, pytest.raises(LabelStudioError, match="gone away"):
        Undoing(client, ledger, database).undo(run.id)
    assert ledger.progress(run.id).counts[TaskState.SKIPPED] == 6 + 31
    with LabelStudioClient(fake.url) as client:
        assert Undoing(client, ledger, database).undo(run.id) == Tally(deleted=54 - 31)
    assert all(OURS not in names for task, names in versions(fake).items() if task % 10)


def test_a_process_killed_before_it_told_the_ledger_loses_nothing(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    with LabelStudioClient(fake.url) as client:
        for task in (1, 2, 3):
            client.delete_prediction(id_of(fake, task))
        assert Undoing(client, ledger, database).undo(run.id) == Tally(deleted=51, gone=3)
    assert ledger.progress(run.id).counts[TaskState.SKIPPED] == 60


@pytest.mark.parametrize(("status", "raised"), [(404, False), (403, True), (405, True)])
def test_a_prediction_that_somebody_deleted_a_moment_ago_keeps_nothing_up(
    fake: LabelStudio, database: Database, status: int, raised: bool
) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    fake.faults["DELETE prediction"] = [status]
    with LabelStudioClient(fake.url) as client:
        undoing = Undoing(client, ledger, database)
        if raised:
            with pytest.raises(LabelStudioError):
                undoing.undo(run.id)
        else:
            assert undoing.undo(run.id).deleted == 54


def test_of_two_predictions_of_the_version_only_the_runs_own_goes(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake)
    fake.keep([{"task": 1, "model_version": OURS, "score": 0.5, "result": []}])
    first, second = [entry["id"] for entry in fake.predictions[1] if entry["model_version"] == OURS]
    with LabelStudioClient(fake.url) as client:
        Undoing(client, ledger, database).undo(run.id)
    left = [entry["id"] for entry in fake.predictions[1] if entry["model_version"] == OURS]
    assert (left, first in left) == ([second], False)


def test_a_run_at_work_is_refused(fake: LabelStudio, database: Database) -> None:
    ledger = Ledger(database)
    run = make_run(ledger, fake, finish=False)
    with LabelStudioClient(fake.url) as client, pytest.raises(LedgerError, match="runs cancel"):
        Undoing(client, ledger, database).undo(run.id)


def test_over_http(tmp_path: Path) -> None:
    fake = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(6))
    with label_studio(fake), connected(tmp_path, fake) as running:
        client = running.client
        run = client.post("/runs", json={"project": fake.project["id"]}).json()["run"]["id"]
        finished(client, run)
        assert len(fake.pushed()) == 5
        asked = client.get(f"/runs/{run}/undo")
        assert asked.json() == {"deleted": 5, "kept": 0, "gone": 0, "finished": False}
        page = client.get(f"/runs/{run}/undo", headers=PAGE)
        assert "Delete 5 predictions" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert f'href="{run}/undo"' in client.get(f"/runs/{run}", headers=PAGE).text
        foreign: dict[str, Any] = {"Origin": "http://evil.example"}
        assert client.post(f"/runs/{run}/undo", headers=foreign).status_code == 403
        done: httpx.Response = client.post(f"/runs/{run}/undo")
        assert done.json() == {"deleted": 5, "kept": 0, "gone": 0, "finished": True}
        assert not any(fake.predictions.values())
        assert client.post("/runs/99/undo").status_code == 404
