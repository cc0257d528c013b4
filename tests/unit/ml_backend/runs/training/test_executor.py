"""A training's run without models: what is read, what ends it, and what is kept; the learning itself is a stand-in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.errors import BusyError, EngineError
from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.learning.project_tasks import ReadProject
from ml_backend.runs.calls import LedgerCalls
from ml_backend.runs.errors import RunStopError, WorkEndedError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.training import executor as module
from ml_backend.runs.training.executor import TrainExecutor
from ml_backend.runs.types import RunKind, TaskRecord, TaskState, TrainingRequest
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC
from tests.support.harness import POLYGONS
from tests.support.waiting import until

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
TRAIN = replace(SPEC, kind=RunKind.TRAIN, training=TrainingRequest("segmenter-1", why="asked"))


def version(*, accepted: bool = True, serving: bool = True) -> Any:
    manifest = SimpleNamespace(arm="plm", figures={"table": {"plm": {"mean": 0.75}}})
    return SimpleNamespace(name="v3", manifest=manifest, accepted=accepted, serving=serving, reasons=["no better"])


def annotation(number: int) -> Annotation:
    return Annotation(id=number, task=number, result=[{}], created_at=NOON, updated_at=NOON)


@dataclass
class World:
    """What a training needs of the service; ``known`` is the version that an earlier try has kept."""

    database: Database
    known: Any = None
    read: ReadProject = field(default_factory=lambda: ReadProject((), ()))
    lends: EngineError | None = None
    is_over: bool = False
    looks: int = 0
    promoted: bool = True
    added: list[dict[str, Any]] = field(default_factory=list)
    considered: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger, self.annotations = Ledger(self.database), Annotations(self.database)
        self.run = self.ledger.create(TRAIN, [1])
        facilities: Any = SimpleNamespace(
            store=SimpleNamespace(database=self.database),
            bundles=SimpleNamespace(base="segmenter-1", read=lambda _: None),
            versions=SimpleNamespace(of_run=lambda _: self.known, add=self.add),
            settings=SimpleNamespace(learn_most=50, prompt=""),
            engine=SimpleNamespace(lease=self.lease, clicking=False),
        )
        plan = SimpleNamespace(config=parse_label_config(POLYGONS), params=SimpleNamespace())
        projects: Any = SimpleNamespace(plan=lambda *_: plan)
        client: Any = object()
        self.executor = TrainExecutor(facilities, projects, client, self.considered.append)

    def add(self, project: int, data: bytes, **facts: Any) -> Any:
        self.added.append({"project": project, "data": data, **facts})
        return version(accepted=facts["accepted"], serving=facts["serve"])

    def lease(self, work: Any) -> Future[Any]:
        if self.lends:
            raise self.lends
        future: Future[Any] = Future()

        def lend() -> None:
            future.set_result(work(SimpleNamespace(suite=SimpleNamespace(segmenter=None), under=None, adaptation=None,
                                                   options=None)))  # fmt: skip

        threading.Thread(target=lend, daemon=True).start()
        return future

    async def over(self) -> bool:
        self.looks += 1
        return self.is_over

    def work(self, *, stopping: bool = False, closed: bool = False) -> TaskRecord:
        """Use one ticket, as a worker does; what it raises goes on. The task's row afterwards."""

        async def main() -> None:
            told = asyncio.Event()
            if stopping:
                told.set()
            session = RunSession(self.run, self.over, asyncio.sleep, told, alone=False)
            made = self.executor.open(session)
            lease = self.ledger.lease(self.run.id, "host:1:x", 1)
            assert lease is not None
            calls = LedgerCalls()
            if closed:
                await made.close()
            try:
                await made.check()
                async with asyncio.timeout(20):
                    await made.work(Batch(lease, self.ledger, calls))
                await made.finished()
            finally:
                self.ledger.release(lease)
                await calls.close()
                assert self.executor.busy is None

        asyncio.run(main())
        (record,) = self.ledger.records(self.run.id)
        return record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    made = World(database)
    monkeypatch.setattr(module, "read_project", lambda *_: made.read)
    yield made
    made.executor.close()
    database.close()


def learns(world: World, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Let there be enough to learn from, and ``run(pause)`` be the learning."""

    class Learning:
        def __init__(self, *, pause: Any, **_: Any) -> None:
            self.pause = pause

        def run(self, _examples: Any) -> Any:
            run(self.pause)
            return SimpleNamespace(verdict=SimpleNamespace(promoted=world.promoted))

    monkeypatch.setattr(module, "_LOOK", 0.01)
    monkeypatch.setattr(module, "Models", SimpleNamespace)
    monkeypatch.setattr(module, "Training", Learning)
    monkeypatch.setattr(module, "enough", lambda _: True)
    monkeypatch.setattr(module, "packed", lambda *_, **__: (b"bundle", {"folds": 3}))


def test_a_process_trains_on_the_segmenter_that_the_run_was_made_with(world: World) -> None:
    assert world.executor.unfit(TRAIN) == ""
    assert "start a new one" in world.executor.unfit(SPEC)
    other = replace(TRAIN, training=TrainingRequest("segmenter-2"))
    assert "segmenter-2" in world.executor.unfit(other)
    assert "segmenter-1" in world.executor.unfit(other)


def test_a_process_that_ends_waits_for_no_training(world: World) -> None:
    go, begun = threading.Event(), []
    held = [world.executor.threads.submit(lambda: (begun.append(1), go.wait(30))) for _ in range(2)]
    until(lambda: len(begun) == 2, "both threads are busy")
    waiting = world.executor.threads.submit(lambda: begun.append(1))
    world.executor.close()
    assert not any(future.done() for future in held)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        world.executor.threads.submit(lambda: None)
    go.set()


def test_one_training_at_a_time(world: World) -> None:
    async def main() -> None:
        session = RunSession(world.run, world.over, asyncio.sleep, asyncio.Event(), alone=False)
        first, second = world.executor.open(session), world.executor.open(session)
        await second.check()
        world.executor.busy = first
        with pytest.raises(WorkEndedError):
            await second.check()
        world.executor.busy = None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("accepted", "serving", "said"),
    [(True, True, "the gate lets it serve"), (True, False, "another version serves"), (False, False, "no better")],
)
def test_what_a_process_kept_before_it_died_is_not_learned_again(
    world: World, accepted: bool, serving: bool, said: str
) -> None:
    world.known = version(accepted=accepted, serving=serving)
    record = world.work()
    assert (record.state, record.score) == (TaskState.DONE, 0.75)
    assert said in record.reason
    assert world.added == []
    assert world.considered == [SPEC.project]


def test_too_little_stops_the_run_and_what_label_studio_has_is_known_afterwards(world: World) -> None:
    world.annotations.upsert(SPEC.project, [annotation(1), annotation(2)])
    world.read = ReadProject((), (annotation(2), annotation(3)))
    with pytest.raises(RunStopError, match="two are the least"):
        world.work()
    assert world.annotations.corrected(SPEC.project).annotations == {2, 3}


def test_a_list_that_ended_early_deletes_nothing(world: World) -> None:
    world.annotations.upsert(SPEC.project, [annotation(1)])
    world.read = ReadProject((), (annotation(3),))
    with pytest.raises(RunStopError):
        world.work(closed=True)
    assert world.annotations.corrected(SPEC.project).annotations == {1, 3}


def test_people_see_how_far_it_is_and_a_cancelled_one_fetches_no_more(world: World) -> None:
    world.read = ReadProject(({"id": 1, "data": {}},), ())
    world.is_over = True
    with pytest.raises(WorkEndedError):
        world.work()
    assert world.ledger.get(world.run.id).stage == ""
    world.is_over = False
    with pytest.raises(RunStopError, match="two are the least"):
        world.work()
    assert world.ledger.get(world.run.id).stage == "fetching images: 1 of 1"


@pytest.mark.parametrize(
    ("error", "stopping", "raised"),
    [
        (EngineError("no weights here"), False, RunStopError),
        (BusyError("the models are being loaded"), False, WorkEndedError),
        (EngineError("the engine is shutting down"), True, WorkEndedError),
    ],
)
def test_models_that_fail_for_good_stop_the_run_and_others_leave_it(
    world: World, monkeypatch: pytest.MonkeyPatch, error: EngineError, stopping: bool, raised: type[Exception]
) -> None:
    learns(world, monkeypatch, lambda _: None)
    world.lends = error
    with pytest.raises(raised):
        world.work(stopping=stopping)
    assert world.added == []


@pytest.mark.parametrize("promoted", [True, False])
def test_what_was_learned_is_kept_and_serves_only_if_the_gate_lets_it(
    world: World, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    def learn(pause: Any) -> None:
        before = world.looks
        until(lambda: world.looks > before + 1, "the run was looked at while this was under way")
        pause()

    learns(world, monkeypatch, learn)
    world.promoted = promoted
    world.read = ReadProject((), (annotation(2),))
    assert world.work().state is TaskState.DONE
    (added,) = world.added
    assert (added["accepted"], added["serve"], added["run"]) == (promoted, promoted, world.run.id)
    assert added["report"] == {"folds": 3, "why": "asked"}
    assert added["corrections"] == world.annotations.corrected(SPEC.project).digest


def test_a_training_that_is_cancelled_ends_at_its_next_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(pause: Any) -> None:
        world.is_over = True
        while True:
            pause()
            time.sleep(0.001)

    learns(world, monkeypatch, learn)
    with pytest.raises(WorkEndedError):
        world.work()
    assert world.added == []


def test_a_training_that_fails_is_not_tried_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise MemoryError("no room")

    learns(world, monkeypatch, fail)
    record = world.work()
    assert record.state is TaskState.FAILED
    assert "MemoryError" in record.reason
