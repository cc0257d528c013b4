"""Starting, joining, resuming and retrying runs against the stand-in for Label Studio; nobody works on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.context import AppContext
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.manager import NO_LABEL_STUDIO, Runs, RunsError
from ml_backend.runs.types import Run, RunRequest, RunState, TaskResult, TaskState
from ml_backend.settings import Settings
from ml_backend.storage.store import Project
from tests.support.conversation import recorded
from tests.support.harness import IDENTITY, POLYGONS, RedThings
from tests.support.label_studio import LabelStudio, label_studio, with_uploads

PORT = 9090


class World:
    """A project of five tasks, and the runs of a backend that knows it; ``woken`` are the runs that workers hear of."""

    def __init__(self, fake: LabelStudio, context: AppContext) -> None:
        self.fake, self.context = fake, context
        self.ledger = context.ledger
        self.woken: list[str] = []
        self.runs: Runs = context.runs(self)

    def wake(self, run_id: str) -> None:
        self.woken.append(run_id)

    def close(self) -> None:
        raise AssertionError("the queue is not the runs' to close")

    def connect(self, params: str | None = '{"prompt": "a frog"}', port: int = PORT) -> None:
        facts = {"url": f"http://backend.example:{port}", "state": "CO", "model_version": "int-fake-int-1"}
        self.fake.connections.append(recorded("connections")[0] | facts | {"extra_params": params})

    def start(self, **asked: Any) -> Any:
        return self.runs.start(RunRequest(project=7, **asked))

    def begun(self, **asked: Any) -> Run:
        run = self.start(**asked).run
        assert isinstance(run, Run)
        return run

    def finish(self, run: Run, state: TaskState = TaskState.DONE) -> None:
        lease = self.ledger.lease(run.id, "host:1:x", 100)
        assert lease is not None
        self.ledger.finish(lease, [TaskResult(task, state) for task in lease.tasks])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with label_studio(with_uploads(5)) as fake:
        settings = Settings(data_dir=tmp_path, label_studio_url=fake.url, label_studio_api_key="legacy", port=PORT)
        context = AppContext.open(settings, load=RedThings, identity=IDENTITY)
        yield World(fake, context)
        asyncio.run(context.close())


def test_a_dry_run_counts_and_makes_nothing(world: World) -> None:
    started = world.runs.start(RunRequest(project=7), dry_run=True)
    assert (started.run, started.joined, started.count) == (None, False, 5)
    assert world.runs.start(RunRequest(project=7, limit=2), dry_run=True).count == 2
    assert world.ledger.runs() == []
    assert world.woken == []


def test_a_run_has_all_tasks_and_workers_hear_of_it(world: World) -> None:
    started = world.start()
    assert started.run is not None
    assert (started.joined, started.count, started.run.state) == (False, 5, RunState.ACTIVE)
    assert world.woken == [started.run.id]
    assert started.spec.label_config == POLYGONS


def test_a_project_without_tasks_is_done_at_once_and_wakes_nobody(world: World) -> None:
    world.fake.tasks.clear()
    started = world.start()
    assert (started.run.state, started.count, world.woken) == (RunState.FINISHED, 0, [])


def test_the_same_again_joins_and_says_what_is_different(world: World) -> None:
    first = world.begun()
    again, other = world.start(), world.start(limit=2, include_annotated=True)
    assert [one.run.id for one in (again, other)] == [first.id] * 2
    assert [one.joined for one in (again, other)] == [True, True]
    assert not [text for text in again.warnings if "goes on as it was made" in text]
    (told,) = [text for text in other.warnings if "goes on as it was made" in text]
    assert "limit, include_annotated" in told
    assert world.woken == [first.id] * 3


def test_who_is_stopped_while_tasks_are_listed_leaves_nothing(world: World) -> None:
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(RunsError, match="nothing was made"):
        world.runs.start(RunRequest(project=7), stopping=stopping)
    assert world.ledger.runs() == []


@pytest.mark.parametrize("connected", [True, False])
def test_only_where_a_connection_would_answer_otherwise_another_prompt_is_warned_of(
    world: World, connected: bool
) -> None:
    if connected:
        world.connect()
    assert not [text for text in world.start().warnings if "not the connection's" in text]
    told = [text for text in world.start(prompt="a  toad").warnings if "not the connection's" in text]
    assert len(told) == connected


def test_a_project_that_label_studio_introduced_counts_as_connected(world: World) -> None:
    world.context.store.save_project(Project("8", {"prompt": "a fish"}, POLYGONS))
    world.context.store.save_project(Project("7", {"prompt": "a frog"}, POLYGONS))
    started = world.start()
    assert started.spec.prompt == "a frog"
    assert [text for text in world.start(prompt="a toad").warnings if "not the connection's" in text]


def test_the_prompt_is_the_requests_else_the_connections(world: World) -> None:
    world.connect()
    assert world.start().spec.prompt == "a frog"
    assert world.start(prompt=" a toad ").spec.prompt == "a toad"
    assert world.start(prompt="a toad").spec.extra_params == {"prompt": "a toad"}


@pytest.mark.parametrize(("status", "raised"), [(401, True), (404, True), (403, False), (405, False)])
def test_connections_that_may_not_be_read_do_not_keep_a_run_from_starting(
    world: World, status: int, raised: bool
) -> None:
    world.connect()
    world.fake.faults["GET ml"] = [status]
    if raised:
        with pytest.raises(LabelStudioError):
            world.start()
        assert world.ledger.runs() == []
    else:
        assert world.start().spec.prompt != "a frog"


def test_a_list_of_connections_that_nobody_answers_keeps_a_run_from_starting(world: World) -> None:
    once = world.context
    runs = Runs(once.ledger, once.pushing, world, once.projects, once.store, once.settings)
    world.connect()
    world.fake.faults["GET ml"] = ["down"]
    with pytest.raises(LabelStudioError) as raised:
        runs.start(RunRequest(project=7))
    assert (raised.value.status, world.ledger.runs()) == (0, [])
    assert runs.start(RunRequest(project=7)).spec.prompt == "a frog"


def test_only_a_view_of_the_project_is_taken(world: World) -> None:
    with pytest.raises(RunsError, match="no view 3; it has none"):
        world.start(view=3)
    world.fake.views.update({3: "Frogs", 4: ""})
    assert world.begun(view=3).spec.request.view == 3
    with pytest.raises(RunsError, match=r"no view 5; it has 3 \(Frogs\), 4$") as raised:
        world.start(view=5)
    assert raised.value.field == "view"
    assert len(world.ledger.runs()) == 1


def test_which_adapter_stands_behind_the_version_of_a_run_is_kept(world: World) -> None:
    versions, adapter = world.context.facilities.versions, "0123456789abcdef"
    world.context.store.choose_adapter("7", adapter)
    started = world.start()
    assert started.spec.adapter == adapter
    assert versions.names(7, adapter) == [started.spec.model_version]


def test_labels_that_keep_their_own_prompt_are_named(world: World) -> None:
    labels = '<Label value="Frog" model_prompt="a frog"/><Label value="Other"/>'
    world.fake.project["label_config"] = POLYGONS.replace('<Label value="Animal"/>', labels)
    assert not [text for text in world.start().warnings if "keeps its own prompt" in text]
    (told,) = [text for text in world.start(prompt="a toad").warnings if "keeps its own prompt" in text]
    assert "'Frog'" in told
    assert "'a frog'" in told


def test_of_many_prompts_the_first_are_shown(world: World) -> None:
    labels = "".join(f'<Label value="L{n}" model_prompt="thing {n}"/>' for n in range(5))
    world.fake.project["label_config"] = POLYGONS.replace('<Label value="Animal"/>', labels)
    assert world.start().spec.prompt == "thing 0; thing 1; thing 2, and 2 more"


def test_a_cancelled_run_goes_on_unless_the_labels_are_others_by_now(world: World) -> None:
    run = world.begun()
    world.ledger.cancel(run.id)
    assert world.runs.resume(run.id).state is RunState.ACTIVE
    assert world.woken == [run.id] * 2
    world.ledger.cancel(run.id)
    world.fake.project["label_config"] = POLYGONS.replace("Animal", "Plant")
    with pytest.raises(RunsError, match="start a new run"):
        world.runs.resume(run.id)
    assert world.ledger.get(run.id).state is RunState.CANCELLED
    assert world.woken == [run.id] * 2


def test_failed_tasks_are_done_again_and_workers_hear_of_it_only_if_there_are_any(world: World) -> None:
    run = world.begun()
    world.finish(run)
    assert world.runs.retry(run.id) == 0
    assert world.woken == [run.id]
    other = world.begun(prompt="a toad")
    world.finish(other, TaskState.FAILED)
    assert world.runs.retry(other.id) == 5
    assert world.woken == [run.id, other.id, other.id]


def test_late_tasks_join_the_run_under_way_or_make_one(world: World) -> None:
    params = {"prompt": "a frog"}
    first = world.runs.hand_over(7, POLYGONS, params, [1, 2])
    again = world.runs.hand_over(7, POLYGONS, params, [2, 3])
    assert first.id == again.id
    assert [record.task for record in world.ledger.records(first.id)] == [1, 2, 3]
    assert first.spec.request.include_annotated
    assert world.woken == [first.id] * 2
    assert world.fake.kinds == [], "without asking Label Studio"


def test_without_label_studio_nothing_is_started_or_resumed(world: World, tmp_path: Path) -> None:
    run = world.begun()
    alone = AppContext.open(Settings(data_dir=tmp_path, label_studio_url=""), load=RedThings, identity=IDENTITY)
    runs = alone.runs(world)
    for act in (lambda: runs.start(RunRequest(project=7)), lambda: runs.resume(run.id)):
        with pytest.raises(RunsError, match=NO_LABEL_STUDIO.partition(";")[0]):
            act()
    with pytest.raises(LedgerError, match="no run"):
        runs.retry("99")
    asyncio.run(alone.close())
