"""The tasks of one lease, from looking at them to the push, against the stand-in for Label Studio, without models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from int_model.io.errors import ImageError
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.wire import PredictionOut, RegionOut
from ml_backend.runs.calls import LedgerCalls
from ml_backend.runs.errors import RunStopError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.predict_executor import PredictExecutor
from ml_backend.runs.types import Run, TaskState, config_hash
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC
from tests.support.harness import POLYGONS
from tests.support.label_studio import TOKEN, LabelStudio, label_studio, with_uploads
from tests.support.waiting import until

VERSION = "int-fake-int-1"
RUN = replace(SPEC, label_config=POLYGONS, model_version=VERSION, config_hash=config_hash(POLYGONS))
SHAPE = RegionOut(
    id="a", from_name="label", to_name="image", type="polygonlabels", original_width=8, original_height=8, score=0.5,
    value={"points": [[0, 0], [50, 0], [50, 50]], "closed": True, "polygonlabels": ["Animal"]},
)  # fmt: skip


@dataclass
class World:
    """Models that find something in every task but those of ``empty``; ``broken`` and ``unforeseen`` tasks fail."""

    fake: LabelStudio
    database: Database
    client: LabelStudioClient
    version: str = VERSION
    lacks: str = ""
    config_error: str = ""
    empty: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    unforeseen: set[int] = field(default_factory=set)
    waits: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    stopping: asyncio.Event | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.database)
        annotator: Any = SimpleNamespace(annotate=self.annotate)
        projects: Any = SimpleNamespace(plan=self.plan, lacks=lambda _: self.lacks)
        self.executor = PredictExecutor(annotator, projects, self.client)

    def plan(self, *_: Any) -> Any:
        if self.config_error:
            raise ConfigError(self.config_error)
        return SimpleNamespace(version=self.version)

    async def annotate(self, task: Any, _plan: Any, _waiter: Any) -> Any:
        self.asked.append(task.id)
        if task.id in self.broken:
            raise ImageError("it is\n damaged")
        if task.id in self.unforeseen:
            raise KeyError("x")
        if task.id in self.waits:
            await asyncio.sleep(3600)
        found = [] if task.id in self.empty else [SHAPE]
        prediction = PredictionOut(result=found, score=0.5, model_version=VERSION)
        return SimpleNamespace(prediction=prediction, reason="nothing found" if task.id in self.empty else "")

    def work(self, run: Run, size: int = 100, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Use one ticket, as a worker does; tasks that were not acknowledged go back."""

        async def main() -> None:
            stopping = self.stopping = asyncio.Event()
            self.loop = asyncio.get_running_loop()

            async def over() -> bool:
                return stopping.is_set() or self.ledger.get(run.id).state.value != "active"

            session = RunSession(run, over, asyncio.sleep, stopping, alone=True)
            made = self.executor.open(session)
            lease = self.ledger.lease(run.id, "host:1:x", size)
            assert lease is not None
            calls = LedgerCalls()
            try:
                await made.check()
                async with asyncio.timeout(20):
                    ticket = asyncio.create_task(made.work(Batch(lease, self.ledger, calls)))
                    await asyncio.sleep(0)
                    await asyncio.to_thread(meanwhile)
                    await ticket
            finally:
                self.ledger.release(lease)
                await made.close()
                await calls.close()

        asyncio.run(main())

    def stop(self) -> None:
        """Tell the process to stop once every task was begun; what has its answer is on its way to the push."""
        until(lambda: len(self.asked) == 5, "every task was begun")
        assert self.stopping is not None
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.stopping.set)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    with label_studio(with_uploads(5)) as fake, LabelStudioClient(fake.url, TOKEN, retries=0) as client:
        made = World(fake, database, client)
        yield made
        made.executor.close()
    database.close()


def states(world: World, run: Run) -> dict[int, str]:
    return {record.task: record.state.value for record in world.ledger.records(run.id)}


def test_every_task_of_a_lease_gets_one_prediction_and_its_result(world: World) -> None:
    run = world.ledger.create(RUN, world.fake.tasks)
    world.empty = {2}
    world.work(run)
    assert world.fake.versions() == {task: [VERSION] for task in world.fake.tasks}
    assert sorted(world.asked) == [1, 2, 3, 4, 5]
    assert states(world, run) == {1: "done", 2: "abstained", 3: "done", 4: "done", 5: "done"}
    records = {record.task: record for record in world.ledger.records(run.id)}
    ids = {task: entries[0]["id"] for task, entries in world.fake.predictions.items()}
    assert {task: record.prediction for task, record in records.items()} in (ids, dict.fromkeys(ids))
    assert (records[1].score, records[1].reason, records[2].reason) == (0.5, "", "nothing found")
    assert world.ledger.get(run.id).state.value == "finished"


def test_a_task_that_fails_costs_no_other_and_says_why(world: World) -> None:
    run = world.ledger.create(RUN, world.fake.tasks)
    world.broken, world.unforeseen = {1}, {3}
    world.work(run)
    assert states(world, run) == {1: "failed", 2: "done", 3: "failed", 4: "done", 5: "done"}
    reasons = {record.task: record.reason for record in world.ledger.records(run.id, TaskState.FAILED)}
    assert reasons[1] == "it is damaged"
    assert "KeyError" in reasons[3]


def test_what_needs_no_work_is_settled_at_once_and_no_model_is_asked(world: World) -> None:
    run = world.ledger.create(RUN, [1, 2, 3, 4, 5, 9])
    world.fake.keep([{"task": 1, "model_version": VERSION, "score": 0.5, "result": []}])
    world.fake.tasks[2]["total_annotations"] = 1
    world.work(run)
    assert sorted(world.asked) == [3, 4, 5]
    assert states(world, run) == {1: "skipped", 2: "skipped", 3: "done", 4: "done", 5: "done", 9: "skipped"}
    assert world.fake.versions()[1] == [VERSION]
    assert world.fake.versions()[2] == []


def test_a_process_that_is_told_to_stop_keeps_what_it_pushed_and_gives_the_rest_back(world: World) -> None:
    run = world.ledger.create(RUN, world.fake.tasks)
    world.waits = {4, 5}
    world.work(run, meanwhile=world.stop)
    assert states(world, run) == {1: "done", 2: "done", 3: "done", 4: "pending", 5: "pending"}
    assert {record.attempts for record in world.ledger.records(run.id, TaskState.PENDING)} == {0}


def test_a_double_that_an_earlier_run_left_is_removed(world: World) -> None:
    world.fake.keep([{"task": 1, "model_version": VERSION, "score": 0.5, "result": []}] * 2)
    run = world.ledger.create(RUN, [1])
    world.work(run)
    assert world.fake.versions()[1] == [VERSION]


def test_a_config_that_was_changed_stops_the_run_before_anything_is_done(world: World) -> None:
    run = world.ledger.create(RUN, world.fake.tasks)
    world.fake.project["label_config"] = POLYGONS.replace("Animal", "Plant")
    with pytest.raises(RunStopError, match="start a new run"):
        world.work(run)
    assert world.asked == []


def test_only_a_process_whose_models_make_the_version_of_the_run_does_it(world: World) -> None:
    assert world.executor.unfit(RUN) == ""
    world.version = "int-other-int-2"
    assert VERSION in world.executor.unfit(RUN)
    assert "int-other-int-2" in world.executor.unfit(RUN)
    world.version, world.lacks = VERSION, "the adapter is missing"
    assert world.executor.unfit(RUN) == "the adapter is missing"
    world.config_error = "no labels"
    assert world.executor.unfit(RUN) == "no labels"


def test_the_time_of_a_run_is_shared_out_among_its_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ml_backend.runs.predict_executor.time", SimpleNamespace(monotonic=lambda: now[0]))
    found = []
    for end in (102.0, 103.0, 103.5):
        now[0] = end
        found.append(world.executor.seconds_since(100.0))
    assert found == [2.0, 1.0, 0.5]
    now[0] = 110.0
    assert world.executor.seconds_since(109.0) == 1.0
