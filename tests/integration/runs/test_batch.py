"""A run against a Label Studio that is away, refuses, answers by halves, or is changed by people meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from int_model.models.errors import TransientModelError
from ml_backend.context import AppContext
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.listing import existing, list_tasks, look_at
from ml_backend.runs.manager import RunsError
from ml_backend.runs.owners import new_owner
from ml_backend.runs.predict_executor import PredictExecutor
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.types import Run, RunKind, RunRequest, RunState, TaskRecord, TaskResult, TaskState
from ml_backend.runs.worker import RunWorker
from ml_backend.settings import Settings
from tests.support.harness import IDENTITY, POLYGONS, RedThings
from tests.support.label_studio import Fault, LabelStudio, label_studio, with_uploads

PROJECT = 7
LIMIT = 60.0


def asked(**changes: Any) -> RunRequest:
    return RunRequest(project=PROJECT, **changes)


@dataclass
class Clock:
    """Waiting costs nothing, and is counted."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)
        await asyncio.sleep(0.001)


@dataclass
class Bench:
    """One process's share in runs, in this test's event loop."""

    context: AppContext
    fake: LabelStudio
    strategy: RedThings
    clock: Clock

    def worker(self, *, check_config: float = 0.0, **options: Any) -> RunWorker:
        given = {"size": 6, "alone": True, "sleep": self.clock.sleep, **options}
        context = self.context
        assert context.pushing is not None
        executor = PredictExecutor(context.annotator, context.projects, context.pushing, check_config=check_config)
        return RunWorker(self.context.ledger, {RunKind.PREDICT: executor}, new_owner(), **given)

    async def begin(self, **options: Any) -> Run:
        queue = LocalQueue(self._nothing, self.context.ledger)
        started = await asyncio.to_thread(self.context.runs(queue).start, asked(**options))
        assert started.run is not None
        return started.run

    @staticmethod
    async def _nothing(run_id: str) -> bool:
        return False

    async def finish(self, run: Run, **options: Any) -> Run:
        """Use tickets, two at a time, until the run ends."""
        worker = self.worker(**options)
        queue = LocalQueue(worker.work, self.context.ledger, every=0.05)
        queue.start()
        try:
            return await self.until(lambda: self.run(run).state not in (RunState.ACTIVE, RunState.PREPARING), run)
        finally:
            await worker.close()
            await queue.aclose()

    async def until(self, condition: Callable[[], bool], run: Run) -> Run:
        limit = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < limit, self.counts(run)
            await asyncio.sleep(0.01)
        return self.run(run)

    def run(self, run: Run) -> Run:
        return self.context.ledger.get(run.id)

    def counts(self, run: Run) -> dict[str, int]:
        return {state.value: n for state, n in self.context.ledger.progress(run.id).counts.items() if n}

    def records(self, run: Run, state: TaskState) -> list[TaskRecord]:
        return self.context.ledger.records(run.id, state)

    def all_once(self, run: Run) -> bool:
        return self.fake.versions() == {task: [run.spec.model_version] for task in self.fake.tasks}


def bench(folder: Path, fake: LabelStudio, test: Callable[[Bench], Any], **settings: Any) -> None:
    with label_studio(fake):
        asyncio.run(_main(folder, fake, test, settings))


async def _main(folder: Path, fake: LabelStudio, test: Callable[[Bench], Any], settings: dict[str, Any]) -> None:
    strategy = RedThings()
    options = {"data_dir": folder, "label_studio_url": fake.url, "label_studio_api_key": "legacy", **settings}
    context = AppContext.open(Settings(**options), load=lambda: strategy, identity=IDENTITY)
    await context.start()
    try:
        await test(Bench(context, fake, strategy, Clock()))
    finally:
        strategy.gate.set()
        await context.close()


FAULTS: list[tuple[str, list[Fault]]] = [
    *[(kind, [429, 500]) for kind in ("GET project", "GET tasks", "POST push")],
    *[(kind, ["half"]) for kind in ("GET project", "GET tasks", "POST push", "GET image")],
    ("POST push", ["after"]),
    ("POST push", ["lost"]),
    ("POST push", ["garbage"]),
    ("POST push", ["down"]),
    ("POST push", [429, 500, "down", 429, 500, "half"]),
    ("GET tasks", [429, 500, "half", "garbage", "down"]),
    ("GET image", [500] * 8),
]


@pytest.mark.parametrize(("kind", "faults"), FAULTS, ids=lambda value: str(value))
def test_every_fault_is_waited_for_and_nothing_is_lost_or_doubled(
    tmp_path: Path, kind: str, faults: list[Fault]
) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.fake.faults[kind] = list(faults)
        run = await it.finish(run)
        assert it.fake.faults[kind] == []
        assert run.state is RunState.FINISHED, run.why
        assert it.counts(run) == {"done": 12}, it.records(run, TaskState.FAILED)
        assert it.all_once(run)
        records = it.records(run, TaskState.DONE)
        assert len({record.prediction for record in records}) == 12
        if 429 in faults:
            assert 7.0 in it.clock.waits  # as Label Studio asked

    bench(tmp_path, with_uploads(12, retry_after=7), check)


def test_label_studio_is_down_for_half_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        pushes = 0

        def down() -> bool:
            nonlocal pushes
            pushes = it.fake.kinds.count("POST push")
            return pushes >= 2 and it.clock.now < 30.0

        it.fake.down = down
        run = await it.finish(run)
        assert it.clock.now >= 30.0
        assert it.counts(run) == {"done": 40}
        assert it.all_once(run)

    bench(tmp_path, with_uploads(40), check)
    said = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert 1 <= len(said) <= 4, said  # not one for every attempt
    assert any("is back" in record.getMessage() for record in caplog.records)


def test_invalid_predictions_fail_alone_and_deleted_tasks_are_skipped(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.fake.refuse = {3, 4}
        it.fake.on_push = lambda _: it.fake.tasks.pop(9, None)
        run = await it.finish(run, size=20)
        assert it.counts(run) == {"done": 17, "failed": 2, "skipped": 1}
        assert [r.task for r in it.records(run, TaskState.FAILED)] == [3, 4]
        assert all("did not take" in r.reason for r in it.records(run, TaskState.FAILED))
        assert [(r.task, r.reason) for r in it.records(run, TaskState.SKIPPED)] == [(9, "the task was deleted")]
        assert Counter(p["task"] for p in it.fake.pushed()) == Counter(set(range(1, 21)) - {3, 4, 9})

        it.fake.refuse = set()
        assert await asyncio.to_thread(it.context.ledger.retry, run.id) == 2
        run = await it.finish(run)
        assert it.counts(run) == {"done": 19, "skipped": 1}
        assert it.all_once(run)

    bench(tmp_path, with_uploads(20), check)


def test_a_predecessor_that_died_after_its_push_is_believed(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run, ledger = await it.begin(), it.context.ledger
        version = run.spec.model_version
        dead = ledger.lease(run.id, "elsewhere:1:dead", 5)
        assert dead is not None
        full = {"task": 1, "result": [{"id": "x"}], "score": 0.4, "model_version": version}
        others = {**full, "id": 52, "task": 8}  # by somebody else altogether
        it.fake.keep([{**full, "id": 50}, {**full, "task": 2, "result": [], "score": 0.0, "id": 51}, others])
        assert ledger.release_dead("elsewhere", lambda _: False) == 1
        run = await it.finish(run)
        assert it.counts(run) == {"done": 8, "abstained": 1, "skipped": 1}
        by_task = {r.task: r for r in ledger.records(run.id)}
        assert (by_task[1].score, by_task[1].prediction, by_task[2].prediction) == (0.4, 50, 51)
        assert by_task[8].reason == "already done: it has a prediction of this version"
        assert it.all_once(run)

    bench(tmp_path, with_uploads(10), check)


def test_what_was_taken_over_is_not_pushed(tmp_path: Path) -> None:
    """The first worker is held up so long that its lease goes; the second one does the work."""

    async def check(it: Bench) -> None:
        it.context.ledger.lease_seconds = 0.2
        run = await it.begin()
        it.strategy.gate.clear()
        slow = it.worker(size=10, heartbeat=60.0)
        late = asyncio.create_task(slow.work(run.id))
        await asyncio.to_thread(it.strategy.started.wait, 30)
        await asyncio.sleep(0.3)
        it.context.ledger.lease_seconds = 60
        taken = it.context.ledger.lease(run.id, "elsewhere:1:quick", 10)
        assert taken is not None
        assert len(taken.tasks) == 10
        it.strategy.gate.set()
        await late
        assert it.fake.pushed() == []
        results = [TaskResult(task, TaskState.DONE) for task in taken.tasks]
        assert it.context.ledger.finish(taken, results) == frozenset(taken.tasks)
        await slow.close()

    bench(tmp_path, with_uploads(10), check)


def test_a_second_prediction_that_came_late_is_removed(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()

        def twice(items: list[dict[str, Any]]) -> None:
            it.fake.on_push = lambda _: None
            it.fake.keep(items)

        it.fake.on_push = twice
        run = await it.finish(run)
        assert it.counts(run) == {"done": 10}
        assert it.all_once(run)

    bench(tmp_path, with_uploads(10), check)


def test_a_later_run_of_the_version_removes_what_an_earlier_one_left_twice(tmp_path: Path) -> None:
    fake = with_uploads(3)

    async def check(it: Bench) -> None:
        first = await it.finish(await it.begin())
        late = {**it.fake.predictions[2][0], "id": 5000}
        it.fake.predictions[2].append(late)
        again = await it.finish(await it.begin())
        assert again.id != first.id
        assert it.counts(again) == {"skipped": 3}
        assert it.all_once(again)
        assert it.fake.predictions[2][0]["id"] < 5000

    bench(tmp_path, fake, check)


def test_what_people_did_meanwhile_is_respected(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        it.fake.tasks[1]["total_annotations"] = 1
        run = await it.begin()
        assert it.counts(run) == {"pending": 9}  # an annotated task is not even listed
        it.fake.tasks[2]["total_annotations"] = 1
        it.fake.tasks[3]["draft_exists"] = True
        del it.fake.tasks[4]
        run = await it.finish(run)
        assert it.counts(run) == {"done": 6, "skipped": 3}
        reasons = {r.task: r.reason for r in it.records(run, TaskState.SKIPPED)}
        assert reasons == {
            2: "left alone: a person annotated it",
            3: "left alone: a person has begun to annotate it",
            4: "the task was deleted",
        }
        again = await it.begin(include_annotated=True, set_model_version=True)
        again = await it.finish(again)
        assert it.counts(again) == {"done": 3, "skipped": 6}
        assert it.all_once(again)
        assert it.fake.patches == [{"path": "/api/projects/7", "model_version": again.spec.model_version}]

    bench(tmp_path, with_uploads(10), check)


def test_a_changed_config_stops_the_run_and_forbids_to_resume(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        assert await it.worker().work(run.id)
        other = POLYGONS.replace('value="Animal"', 'value="Beast"')
        it.fake.project["label_config"] = other
        assert not await it.worker().work(run.id)
        run = it.run(run)
        assert run.state is RunState.STOPPED
        assert "labeling config was changed" in run.why
        assert it.counts(run) == {"done": 6, "pending": 4}
        runs = it.context.runs(LocalQueue(it._nothing, it.context.ledger))
        with pytest.raises(RunsError, match="no longer that of run"):
            await asyncio.to_thread(runs.resume, run.id)
        second = await it.finish(await it.begin())
        assert it.counts(second) == {"done": 10}
        it.fake.project["label_config"] = POLYGONS
        await asyncio.to_thread(runs.resume, run.id)
        run = await it.finish(run)
        assert it.counts(run) == {"done": 10}
        both = sorted([run.spec.model_version, second.spec.model_version])
        assert {tuple(sorted(v)) for v in it.fake.versions().values()} == {tuple(both)}

    bench(tmp_path, with_uploads(10), check)


def test_a_config_that_changes_during_the_work_stops_before_anything_is_called_refused(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()

        def changed(_: list[dict[str, Any]]) -> None:
            it.fake.project["label_config"] = POLYGONS.replace('value="Animal"', 'value="Beast"')
            it.fake.refuse = set(it.fake.tasks)

        it.fake.on_push = changed
        assert not await it.worker(check_config=60.0).work(run.id)
        assert it.run(run).state is RunState.STOPPED
        assert it.counts(run) == {"pending": 10}

    bench(tmp_path, with_uploads(10), check)


def test_the_same_run_twice_is_joined(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        runs = it.context.runs(LocalQueue(it._nothing, it.context.ledger))
        both = await asyncio.gather(*[asyncio.to_thread(runs.start, asked()) for _ in range(2)])
        assert sorted(started.joined for started in both) == [False, True]
        assert len({started.run.id for started in both if started.run}) == 1
        other = await asyncio.to_thread(runs.start, asked(limit=3))
        assert any("another limit" in warning for warning in other.warnings)
        others = await asyncio.to_thread(runs.start, asked(prompt="scarlet"))
        assert not others.joined  # another prompt is another version
        assert others.spec.model_version != both[0].spec.model_version
        assert (others.spec.request.prompt, both[0].spec.request.prompt) == ("scarlet", "")

    bench(tmp_path, with_uploads(10), check)


def test_of_two_connections_of_ours_the_one_at_our_port_counts(tmp_path: Path) -> None:
    fake = with_uploads(2)
    fake.connections = [
        {"model_version": "int-fake-int-1", "state": "CO", "url": "http://one:9090", "extra_params": "scarlet"},
        {"model_version": "int-fake-int-2", "state": "CO", "url": "http://two:9191", "extra_params": "crimson"},
    ]

    async def check(it: Bench) -> None:
        assert (await it.begin()).spec.prompt == "crimson"

    bench(tmp_path, fake, check, port=9191)


def test_cancelling_stops_at_once_and_resuming_goes_on(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.strategy.gate.clear()
        worker = it.worker()
        ticket = asyncio.create_task(worker.work(run.id))
        await asyncio.to_thread(it.strategy.started.wait, 30)
        it.context.ledger.cancel(run.id)
        await ticket
        assert it.counts(run) == {"pending": 10}
        it.strategy.gate.set()
        await worker.close()
        it.context.ledger.resume(run.id)
        run = await it.finish(run)
        assert it.counts(run) == {"done": 10}
        assert it.all_once(run)

    bench(tmp_path, with_uploads(10), check)


def test_a_worker_that_is_told_to_stop_gives_everything_back(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.strategy.gate.clear()
        worker = it.worker()
        ticket = asyncio.create_task(worker.work(run.id))
        await asyncio.to_thread(it.strategy.started.wait, 30)
        await worker.close()
        assert not await ticket
        assert it.counts(run) == {"pending": 10}
        assert it.context.ledger.progress(run.id).workers == 0

    bench(tmp_path, with_uploads(10), check)


@pytest.mark.parametrize(("alone", "state"), [(True, RunState.STOPPED), (False, RunState.ACTIVE)])
def test_a_run_of_other_models_is_left_alone(tmp_path: Path, alone: bool, state: RunState) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        object.__setattr__(it.context.projects._identity, "fingerprint", "1" * 64)
        try:
            worker = it.worker(alone=alone)
            assert not worker.suits(run.id)
            assert not await worker.work(run.id)
        finally:
            object.__setattr__(it.context.projects._identity, "fingerprint", "0" * 64)
        assert it.run(run).state is state
        assert ("make int-fake" in it.run(run).why) is alone
        assert it.counts(run) == {"pending": 4}

    bench(tmp_path, with_uploads(4), check)


def test_a_token_that_is_refused_stops_the_run(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.fake.faults["POST push"] = [401] * 9
        assert not await it.worker().work(run.id)
        assert it.run(run).state is RunState.STOPPED
        assert "LABEL_STUDIO_API_KEY" in it.run(run).why
        assert it.counts(run) == {"pending": 4}

    bench(tmp_path, with_uploads(4), check)


def test_a_project_that_was_deleted_stops_the_run_and_is_named(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        it.fake.faults["GET project"] = [404] * 9
        assert not await it.worker().work(run.id)
        assert it.run(run).state is RunState.STOPPED
        assert f"has no project {PROJECT}" in it.run(run).why
        assert "it was deleted" in it.run(run).why

    bench(tmp_path, with_uploads(2), check)


def test_broken_images_and_failing_models_fail_alone_with_the_reason(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        it.fake.files["/data/upload/7/2.png"] = b"no image"
        del it.fake.tasks[5]
        run = await it.begin()
        it.fake.tasks[5] = it.fake.tasks[6]
        run = await it.finish(run)
        assert it.counts(run) == {"done": 6, "failed": 1}
        (record,) = it.records(run, TaskState.FAILED)
        assert record.task == 2
        assert "image" in record.reason

    bench(tmp_path, with_uploads(8), check)


def test_models_that_cannot_answer_now_are_asked_again(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        run = await it.begin()
        segment, away = it.strategy.segment, iter(range(6))

        def sometimes(images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
            for _ in away:
                raise TransientModelError("the endpoint answered 503", retry_after=7.5)
            return segment(images, task)

        it.strategy.segment = sometimes  # type: ignore[method-assign]
        run = await it.finish(run)
        assert it.counts(run) == {"done": 8}
        assert 7.5 in it.clock.waits
        assert it.all_once(run)

    bench(tmp_path, with_uploads(8), check)


def test_listing_takes_pages_limits_and_only_what_is_missing(tmp_path: Path) -> None:
    async def check(it: Bench) -> None:
        client, fake = it.context.client, it.fake
        fake.keep([{"task": n, "model_version": "v", "score": 0.5, "result": [1]} for n in range(1, 251, 2)])
        fake.tasks[2]["total_annotations"] = 1
        everything = list(list_tasks(client, asked(include_annotated=True), "v"))
        assert everything == list(range(1, 251))
        assert list(list_tasks(client, asked(), "v")) == [1, *range(3, 251)]
        assert list(list_tasks(client, asked(only_missing=True), "v")) == list(range(4, 251, 2))
        assert list(list_tasks(client, asked(only_missing=True, limit=3), "v")) == [4, 6, 8]
        assert list(list_tasks(client, asked(), "v", lambda: True)) == []
        assert {n for n, view in look_at(client, PROJECT, range(1, 300), "v").items() if view.predicted} == set(
            range(1, 251, 2)
        )
        assert set(existing(client, PROJECT, [1, 2, 3], "v")) == {1, 3}
        with pytest.raises(LabelStudioError, match="404"):
            list(list_tasks(client, RunRequest(project=8, limit=1), "v")) and client.project(8)

    bench(tmp_path, with_uploads(250), check)
