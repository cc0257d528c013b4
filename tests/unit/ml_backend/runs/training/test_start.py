"""When a project learns: counted on a real ledger; the models' side is a stand-in that says what serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import RunsError
from ml_backend.runs.training.start import Trainings
from ml_backend.runs.types import RunKind, RunState, TaskResult, TaskState
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.database import Database
from ml_backend.storage.store import Project, Store
from tests.integration.ledger.kit import SPEC

PROJECT, NOON = 7, datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass
class World:
    """A project that ``/setup`` introduced, its corrections, and what was learned from them."""

    database: Database
    learn: str = "auto"
    learn_from: int = 4
    learned: list[Any] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)
    refused: str = ""

    def __post_init__(self) -> None:
        self.ledger, self.store = Ledger(self.database), Store(self.database)
        self.annotations = Annotations(self.database)
        self.store.save_project(Project("6", None, "<View>another</View>"))
        self.store.save_project(Project(str(PROJECT), {"prompt": "a cat"}, "<View/>"))

    def plan(self, text: str, params: Any, adapter: str) -> Any:
        if self.refused:
            raise ConfigError(self.refused)
        return SimpleNamespace(adapter=adapter)

    @property
    def trainings(self) -> Trainings:
        settings = SimpleNamespace(
            learn=self.learn, learn_from=self.learn_from, learn_steps=None, learn_group="", strategy="int",
        )  # fmt: skip
        parts: list[Any] = [
            self.ledger,
            SimpleNamespace(wake=self.woken.append),
            SimpleNamespace(plan=self.plan),
            self.store,
            SimpleNamespace(base="segmenter-1"),
            SimpleNamespace(of_project=lambda _: self.learned),
            self.annotations,
            settings,
        ]
        return Trainings(*parts)

    def correct(self, *tasks: int) -> None:
        given = [Annotation(id=100 + n, task=n, result=[{}], created_at=NOON, updated_at=NOON) for n in tasks]
        self.annotations.upsert(PROJECT, given)

    def finish(self) -> None:
        """The newest training ends."""
        run = self.ledger.runs(PROJECT)[0]
        lease = self.ledger.lease(run.id, "host:1:x", 1)
        assert lease is not None
        self.ledger.finish(lease, [TaskResult(1, TaskState.DONE)])
        assert self.ledger.get(run.id).state is RunState.FINISHED


def version(images: int, corrections: str = "", parent: str = "", name: str = "abc") -> Any:
    manifest = SimpleNamespace(images=images, base="segmenter-1")
    return SimpleNamespace(manifest=manifest, corrections=corrections, parent=parent, id=name, name="v1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    yield World(database)
    database.close()


def test_a_first_training_begins_with_as_many_corrected_tasks_as_are_asked_for(world: World) -> None:
    world.correct(1, 2, 3)
    assert world.trainings.consider(PROJECT) is None
    world.correct(4)
    run = world.trainings.consider(PROJECT)
    assert run is not None
    assert world.woken == [run.id]
    spec = run.spec
    assert (spec.kind, spec.project, spec.label_config, spec.extra_params) == (
        RunKind.TRAIN, PROJECT, "<View/>", {"prompt": "a cat"},
    )  # fmt: skip
    assert spec.training is not None
    assert (spec.training.base, spec.training.images, spec.training.parent) == ("segmenter-1", 4, "")
    assert "4 corrected tasks" in spec.prompt


def test_one_corrected_task_is_enough_where_that_is_asked_for(world: World) -> None:
    world.learn_from = 1
    world.correct(1)
    assert world.trainings.consider(PROJECT) is not None


def test_no_training_begins_by_itself_while_another_is_under_way(world: World) -> None:
    world.correct(1, 2, 3, 4)
    assert world.trainings.consider(PROJECT) is not None
    world.correct(*range(5, 20))
    assert world.trainings.consider(PROJECT) is None, "one is under way"
    world.finish()
    assert world.trainings.consider(PROJECT) is not None


def test_the_next_training_needs_half_as_many_corrections_again(world: World) -> None:
    world.correct(1, 2, 3, 4)
    assert world.trainings.consider(PROJECT) is not None
    world.finish()
    world.correct(5)
    assert world.trainings.consider(PROJECT) is None
    world.correct(6)
    second = world.trainings.consider(PROJECT)
    assert second is not None
    assert second.spec.training is not None
    assert second.spec.training.images == 6


def test_what_a_version_was_learned_from_counts_where_no_run_is_known(world: World) -> None:
    world.learned.append(version(images=6))
    world.correct(*range(1, 9))
    assert world.trainings.consider(PROJECT) is None
    world.correct(9)
    assert world.trainings.consider(PROJECT) is not None


def test_trainings_begin_by_themselves_only_where_that_is_wanted(world: World) -> None:
    world.learn = "ask"
    world.correct(*range(1, 10))
    assert world.trainings.consider(PROJECT) is None
    assert world.trainings.start(PROJECT, "asked").run is not None


def test_nobody_is_told_where_a_training_cannot_begin_by_itself(world: World) -> None:
    world.refused = "no labels"
    world.correct(*range(1, 5))
    assert world.trainings.consider(PROJECT) is None
    assert world.woken == []
    with pytest.raises(ConfigError, match="no labels"):
        world.trainings.start(PROJECT, "asked")


def test_a_second_wish_joins_the_training_that_is_under_way_and_wakes_it(world: World) -> None:
    world.correct(1)
    first = world.trainings.start(PROJECT, "one")
    world.correct(2)
    again = world.trainings.start(PROJECT, "another")
    assert first.run is not None
    assert again.run is not None
    assert (first.joined, again.joined, again.run.id, again.count) == (False, True, first.run.id, 1)
    assert again.spec.prompt == first.spec.prompt
    assert world.woken == [first.run.id] * 2
    assert first.count == 1


def test_a_run_that_predicts_is_no_training(world: World) -> None:
    predicting = world.ledger.create(SPEC, [1])
    world.correct(1, 2, 3, 4)
    run = world.trainings.consider(PROJECT)
    assert run is not None
    assert run.id != predicting.id


def test_what_was_learned_is_not_learned_again_from_the_same_corrections(world: World) -> None:
    with pytest.raises(RunsError, match=f"int-backend learn --project {PROJECT}"):
        world.trainings.start(PROJECT, "nothing to learn from")
    world.correct(1, 2)
    digest = world.annotations.corrected(PROJECT).digest
    world.learned[:] = [version(2, digest, parent="someone else's")]
    first = world.trainings.start(PROJECT, "from another parent").run
    assert first is not None
    world.finish()
    world.learned[:] = [version(2, digest)]
    with pytest.raises(RunsError, match="from exactly these 2 corrected tasks"):
        world.trainings.start(PROJECT, "again")
    world.store.choose_adapter(str(PROJECT), "abc")
    with pytest.raises(RunsError, match="from exactly these 2 corrected tasks"):
        world.trainings.start(PROJECT, "on top of what was learned from them")
    world.correct(3)
    assert world.trainings.start(PROJECT, "with one more").run is not None


def test_other_corrections_are_another_training(world: World) -> None:
    found = set()
    for task in (1, 2, 3):
        world.correct(task)
        run = world.trainings.start(PROJECT, "again").run
        assert run is not None
        found.add(run.spec.model_version)
        assert len(run.spec.model_version) == len("train-") + 12
        world.finish()
    assert len(found) == 3


def test_a_project_that_label_studio_never_introduced_is_said(world: World) -> None:
    world.store.save_project(Project("9", None, ""))
    for project in (8, 9):
        with pytest.raises(RunsError, match="open its Machine Learning settings once"):
            world.trainings.start(project, "asked")
    facts = {"label_config": "<View>from Label Studio</View>"}
    started = world.trainings.start(8, "asked", facts=facts, extra_params={"prompt": "a dog"})
    assert started.spec.label_config == facts["label_config"]
    assert started.spec.extra_params == {"prompt": "a dog"}
