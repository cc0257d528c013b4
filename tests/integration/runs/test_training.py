"""Trainings as runs, with the kit's models and the stand-in for Label Studio: begun by counts, judged, promoted."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import func, select

from int_model.learning.adaptation import Adaptation
from int_model.learning.bundle import Manifest, pack
from int_model.nano.conventions import annotated_scene
from ml_backend.context import AppContext
from ml_backend.learning.predictions import predictions_of, remove_predictions
from ml_backend.learning.training import Training
from ml_backend.runs.manager import RunsError
from ml_backend.runs.queues.base import NullQueue
from ml_backend.runs.types import Run, RunKind, RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from ml_backend.storage.clicks import LoggedClick
from ml_backend.storage.store import Project
from ml_backend.storage.tables import JournalRow
from tests.support.conversation import recorded
from tests.support.corrected import brush_region
from tests.support.label_studio import LabelStudio, label_studio

PROJECT = 7
LABELS = {"polyp": "Polyp", "skin lesion": "Lesion"}
CONFIG = '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">{}</BrushLabels></View>'
CONFIG = CONFIG.format("".join(f'<Label value="{v}" model_prompt="{k}"/>' for k, v in LABELS.items()))


def png(image: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def annotation(number: int, task: int, result: list[Any], **more: Any) -> dict[str, Any]:
    at = datetime(2026, 11, 1, 12, number % 60, tzinfo=UTC).isoformat()
    facts = {"id": number, "task": task, "result": result, "lead_time": 12.5, "completed_by": 1}
    return {**facts, "created_at": at, "updated_at": at, "was_cancelled": False, **more}


def corrected(convention: str, count: int, more: int = 0) -> LabelStudio:
    """A project with so many corrected tasks, and ``more`` that nobody looked at."""
    made = LabelStudio(project=recorded("project") | {"id": PROJECT, "label_config": CONFIG})
    for number in range(1, count + more + 1):
        scene = annotated_scene(convention, number - 1)  # type: ignore[arg-type]
        path = f"/data/upload/7/{number}.png"
        made.files[path] = png(scene.image)
        made.tasks[number] = {"data": {"image": path}}
        if number <= count:
            result = [brush_region(mask, LABELS[scene.task], f"r{i}") for i, mask in enumerate(scene.masks)]
            made.tasks[number] |= {"annotations": [annotation(100 + number, number, result)], "total_annotations": 1}
    return made


Test = Callable[[AppContext], Awaitable[None]]


def with_backend(folder: Path, fake: LabelStudio, *tests: Test, **changes: Any) -> None:
    """Run tests one after the other, each with a backend of its own over the same data folder."""

    async def once(test: Test) -> None:
        settings = Settings(
            data_dir=folder,
            label_studio_url=fake.url,
            label_studio_api_key=SecretStr("legacy"),
            strategy="grounded_sam",
            device="cpu",
            **changes,
        )
        context = AppContext.open(settings)
        await context.start()
        try:
            await test(context)
        finally:
            await context.close()

    with label_studio(fake):
        for test in tests:
            asyncio.run(once(test))


def introduce(context: AppContext) -> None:
    context.store.save_project(Project(str(PROJECT), None, CONFIG))


async def begin(context: AppContext, why: str = "test") -> Run:
    facts = {"label_config": CONFIG}
    started = await asyncio.to_thread(lambda: context.trainings(NullQueue()).start(PROJECT, why, facts=facts))
    assert started.run is not None
    return started.run


async def work(context: AppContext, run: Run) -> Run:
    worker = context.worker()
    try:
        while await worker.work(run.id):
            pass
        return context.ledger.get(run.id)
    finally:
        await worker.close()


def test_corrections_become_a_version_that_serves_the_next_predictions(tmp_path: Path) -> None:
    fake = corrected("halo", 4, more=1)

    async def check(context: AppContext) -> None:
        run = await begin(context)
        assert (run.spec.kind, run.spec.training and run.spec.training.why) == (RunKind.TRAIN, "test")
        done = await work(context, run)
        (record,) = context.ledger.records(run.id)
        assert (done.state, record.state) == (RunState.FINISHED, TaskState.DONE), record
        assert done.stage.startswith(("step", "fetching"))
        version = context.facilities.versions.of_run(run.id)
        assert version is not None
        assert (version.serving, version.manifest.images, version.parent) == (version.accepted, 4, ""), record.reason
        assert set(version.manifest.figures["table"]) == {"base", "slots", "outlines"}
        with context.store.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(JournalRow)) == 0, "it has come to its end"
        versions = context.facilities.versions
        await asyncio.to_thread(lambda: versions.promote(PROJECT, "v1", who="ann", force=True))
        started = await asyncio.to_thread(context.runs(NullQueue()).start, RunRequest(project=PROJECT))
        assert started.run is not None
        assert started.run.spec.adapter == version.id
        await work(context, started.run)
        assert fake.versions()[5] == [started.run.spec.model_version]
        again = context.trainings(NullQueue())
        introduce(context)
        with pytest.raises(RunsError, match=r"has learned from exactly these 4 corrected tasks already \(v1\)"):
            again.start(PROJECT, "test")
        names = context.facilities.versions.names(PROJECT, version.id)
        assert context.client is not None
        found = list(predictions_of(context.client, PROJECT, names))
        assert [(one.task, one.used) for one in found] == [(5, False)]
        assert (remove_predictions(context.client, found), fake.versions()[5]) == (1, [])

    with_backend(tmp_path, fake, check)


def test_a_training_that_was_interrupted_leaves_what_serves_and_goes_on_elsewhere(tmp_path: Path) -> None:
    fake, begun = corrected("halo", 3), []

    def steps(context: AppContext) -> int:
        with context.store.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(JournalRow)) or 0

    async def interrupt(context: AppContext) -> None:
        run = await begin(context)
        begun.append(run.id)
        worker = context.worker()
        working = asyncio.create_task(worker.work(run.id))
        async with asyncio.timeout(120):
            while await asyncio.to_thread(steps, context) < 2:
                await asyncio.sleep(0.02)
        await worker.close()
        await working
        assert context.ledger.get(run.id).state is RunState.ACTIVE
        assert context.ledger.progress(run.id).counts[TaskState.PENDING] == 1
        assert context.facilities.versions.of_project(PROJECT) == []
        assert context.store.adapter_of(str(PROJECT)) == ""

    async def go_on(context: AppContext) -> None:
        before = await asyncio.to_thread(steps, context)
        assert before >= 2
        done = await work(context, context.ledger.get(begun[0]))
        assert done.state is RunState.FINISHED
        (version,) = context.facilities.versions.of_project(PROJECT)
        assert version.run == begun[0]

    with_backend(tmp_path, fake, interrupt, go_on)


def test_what_was_deleted_in_label_studio_teaches_nothing(tmp_path: Path) -> None:
    fake = corrected("halo", 3)

    async def check(context: AppContext) -> None:
        await work(context, await begin(context))
        kept = context.executors()[RunKind.TRAIN].annotations  # type: ignore[attr-defined]
        clicks = context.executors()[RunKind.TRAIN].clicks  # type: ignore[attr-defined]
        assert kept.corrected(PROJECT).annotations == {101, 102, 103}
        clicks.record(PROJECT, LoggedClick(3, "Polyp", (192, 192), ((5.0, 6.0),), (1,)))
        fake.tasks[3] |= {"annotations": [], "total_annotations": 0}
        await work(context, await begin(context))
        assert kept.corrected(PROJECT).annotations == {101, 102}
        kept.record({"action": "TASKS_DELETED", "project": {"id": PROJECT}, "tasks": [{"id": 3}, {"id": 2}]})
        assert kept.corrected(PROJECT).annotations == {101}
        assert clicks.of_tasks(PROJECT, [3]) == {}
        kept.record({"action": "PROJECT_DELETED", "project": {"id": PROJECT}})
        assert kept.corrected(PROJECT).tasks == 0

    with_backend(tmp_path, fake, check)


def test_too_little_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    async def check(context: AppContext) -> None:
        stopped = await work(context, await begin(context))
        assert stopped.state is RunState.STOPPED
        assert "1 images have objects to learn from, and two are the least" in stopped.why

    with_backend(tmp_path, corrected("halo", 1), check)


def test_trainings_begin_by_themselves_as_corrections_grow(tmp_path: Path) -> None:
    async def check(context: AppContext) -> None:
        trainings = context.trainings(NullQueue())
        kept = context.executors()[RunKind.TRAIN].annotations  # type: ignore[attr-defined]

        def draw(count: int) -> Run | None:
            for number in range(1, count + 1):
                kept.record({"action": "ANNOTATION_CREATED", "project": {"id": PROJECT},
                             "annotation": annotation(number, number, [])})  # fmt: skip
            return trainings.consider(PROJECT)

        assert draw(3) is None, "Label Studio has not introduced the project"
        introduce(context)
        assert draw(2) is not None, "three are known"
        for count in (4, 5):
            assert draw(count) is None, "one is under way"
        (run,) = context.ledger.runs(PROJECT)
        context.ledger.cancel(run.id)
        assert draw(4) is not None, "five are half as many again as three"
        with pytest.raises(RunsError, match="Machine Learning settings"):
            trainings.start(8, "test")

    with_backend(tmp_path, corrected("halo", 1), check)


def test_by_themselves_only_where_that_is_wanted(tmp_path: Path) -> None:
    async def check(context: AppContext) -> None:
        introduce(context)
        kept = context.executors()[RunKind.TRAIN].annotations  # type: ignore[attr-defined]
        for number in range(1, 6):
            kept.record({"action": "ANNOTATION_CREATED", "project": {"id": PROJECT},
                         "annotation": annotation(number, number, [])})  # fmt: skip
        assert context.trainings(NullQueue()).consider(PROJECT) is None
        assert context.trainings(NullQueue()).start(PROJECT, "Start training").run is not None

    with_backend(tmp_path, corrected("halo", 1), check, learn="asked")


def test_a_worker_with_another_segmenter_leaves_the_training_alone(tmp_path: Path) -> None:
    async def check(context: AppContext) -> None:
        run = await begin(context)
        spec = run.spec
        assert spec.training is not None
        executor = context.executors()[RunKind.TRAIN]
        assert executor.unfit(spec) == ""
        other = type(spec.training)("feed", images=4)
        assert "the run trains on the segmenter feed" in executor.unfit(
            type(spec)(**{name: getattr(spec, name) for name in spec.__slots__} | {"training": other})
        )

    with_backend(tmp_path, corrected("halo", 2), check)


def test_what_a_command_found_in_label_studio_counts_too(tmp_path: Path) -> None:
    """It may find more annotated tasks than the backend knew: the next training waits for half as many more of them."""

    async def check(context: AppContext) -> None:
        introduce(context)
        kept = context.executors()[RunKind.TRAIN].annotations  # type: ignore[attr-defined]
        base = context.facilities.bundles.base
        bundle = pack(Adaptation(), Manifest(base=base, data="d", arm="base", images=4))
        context.facilities.versions.add(PROJECT, bundle, accepted=False)

        def draw(count: int) -> Run | None:
            for number in range(1, count + 1):
                kept.record({"action": "ANNOTATION_CREATED", "project": {"id": PROJECT},
                             "annotation": annotation(number, number, [])})  # fmt: skip
            return context.trainings(NullQueue()).consider(PROJECT)

        assert draw(5) is None
        assert draw(6) is not None

    with_backend(tmp_path, corrected("halo", 1), check)


def test_a_training_that_fails_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Training, __: object) -> None:
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setattr(Training, "run", fail)

    async def check(context: AppContext) -> None:
        done = await work(context, await begin(context))
        (record,) = context.ledger.records(done.id)
        assert (done.state, record.state) == (RunState.FINISHED, TaskState.FAILED)
        assert record.reason == "unexpected RuntimeError: CUDA out of memory"
        assert context.facilities.engine.lease(lambda _: 5).result(30) == 5, "the models were handed back"
        assert context.facilities.versions.of_project(PROJECT) == []

    with_backend(tmp_path, corrected("halo", 2), check)
