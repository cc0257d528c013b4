"""Runs that train: the corrected tasks are read, a candidate is learned and judged, and kept as the next version."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from int_model.core.types import Image
from int_model.io.errors import ImageError
from int_model.learning.adaptation import Adaptation
from int_model.learning.examples import Example, data_digest
from ml_backend.errors import EngineError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.learning.corrections import Corrections
from ml_backend.learning.project_tasks import FetchedTasks, ReadProject, first_page, read_project
from ml_backend.learning.training import Training, enough, packed
from ml_backend.learning.versions import Version
from ml_backend.runs.calls import LabelStudioCalls
from ml_backend.runs.errors import LedgerError, RunStopError, WorkEndedError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.training.journal import TrainingJournal
from ml_backend.runs.training.turns import TrainingEndedError, Turns
from ml_backend.runs.types import RunSpec, TaskResult, TaskState, TrainingRequest
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.model_loading import Models
from ml_backend.serving.projects import Projects
from ml_backend.storage.annotations import Annotations
from ml_backend.storage.clicks import ClickLog
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_LOOK = 2.0  # seconds between looks whether the run was cancelled
_TOLD_EVERY = 1.0


class TrainExecutor:
    """`ml_backend.runs.executors.Executor` of runs that train. One training at a time in a process.

    Args:
        facilities: of the service.
        projects: plans how the tasks of a project are annotated.
        client: Label Studio, without retries of its own.
        consider: is asked after a training whether the project has new corrections for the next one; blocking.
    """

    def __init__(
        self,
        facilities: Facilities,
        projects: Projects,
        client: LabelStudioClient,
        consider: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.consider = consider
        self.facilities = facilities
        self.projects = projects
        self.client = client
        self.annotations = Annotations(facilities.store.database)
        self.clicks = ClickLog(facilities.store.database)
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="training")
        self.busy: TrainWork | None = None

    def unfit(self, spec: RunSpec) -> str:
        if spec.training is None:
            return "the run does not say what to train; start a new one"
        base = self.facilities.bundles.base
        if spec.training.base != base:
            return (
                f"the run trains on the segmenter {spec.training.base}, and this process has {base}; use the profile "
                "that the run was made with, or make a new run"
            )
        return ""

    def open(self, session: RunSession) -> TrainWork:
        return TrainWork(self, session)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class TrainWork:
    """`ml_backend.runs.executors.RunWork` of a run that trains."""

    def __init__(self, executor: TrainExecutor, session: RunSession) -> None:
        self._executor = executor
        self._facilities = executor.facilities
        self._session = session
        self._run = session.run.id
        self._spec = session.run.spec
        self._calls = LabelStudioCalls(executor.threads, session.over, session.sleep)
        self._ended = threading.Event()
        self._told = 0.0

    @property
    def _request(self) -> TrainingRequest:
        return self._spec.training or TrainingRequest("")

    async def check(self) -> None:
        """Raises ``WorkEndedError`` while this process trains for another run: it is done afterwards, or elsewhere."""
        if self._executor.busy is not None:
            raise WorkEndedError

    async def work(self, batch: Batch) -> None:
        (task,) = batch.lease.tasks
        self._executor.busy = self
        began = time.monotonic()
        try:
            version = await asyncio.to_thread(self._facilities.versions.of_run, self._run)
            if version is None:  # else a process died between keeping it and saying so
                version = await self._learned()
            await asyncio.to_thread(TrainingJournal(self._facilities.store.database, self._run, "").clear)
            await batch.ack([_result(task, version, round(time.monotonic() - began, 3))])
        except ValueError as error:
            raise RunStopError(" ".join(str(error).split())[:500]) from error
        except (LabelStudioError, StoreError, RunStopError, WorkEndedError):
            raise
        except Exception as error:  # noqa: BLE001 - memory ran out, say: the same again and again would help nobody
            _log.exception("run %s: the training failed", self._run)
            reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            await batch.ack([TaskResult(task, TaskState.FAILED, reason=reason)])
        finally:
            self._executor.busy = None

    async def finished(self) -> None:
        """What was corrected meanwhile may be enough for the next training."""
        try:
            await asyncio.to_thread(self._executor.consider, self._spec.project)
        except (LedgerError, StoreError) as error:
            _log.warning("project %d: no further training was begun: %s", self._spec.project, error)

    async def close(self) -> None:
        self._ended.set()

    async def _learned(self) -> Version:
        read = await self._calls.call(
            read_project,
            self._executor.client,
            self._spec.project,
            self._facilities.settings.learn_most,
            self._ended.is_set,
        )
        corrections = await asyncio.to_thread(self._take_over, read)
        examples = await self._examples(read)
        if not enough(examples):
            raise RunStopError(
                f"{sum(1 for example in examples if example.targets)} images have objects to learn from, and two are "
                "the least: correct more tasks"
            )
        data, report, accepted = await self._train(examples)
        versions = self._facilities.versions
        version = await asyncio.to_thread(
            lambda: versions.add(
                self._spec.project,
                data,
                accepted=accepted,
                report=report,
                run=self._run,
                corrections=corrections,
                serve=accepted,
            )
        )
        what = "serves" if version.serving else "was refused" if not accepted else "is kept"
        _log.info("project %d: %s (%s) %s", self._spec.project, version.name, version.manifest.arm, what)
        return version

    def _take_over(self, read: ReadProject) -> str:
        """Bring what is kept to what Label Studio has; the digest of what there is to learn from."""
        kept, project = self._executor.annotations, self._spec.project
        before = kept.corrected(project).annotations
        kept.upsert(project, read.annotations)
        if not self._ended.is_set():  # else the list may have ended early
            kept.delete(project, before - {annotation.id for annotation in read.annotations})
        return kept.corrected(project).digest

    async def _examples(self, read: ReadProject) -> list[Example]:
        plan = self._executor.projects.plan(self._spec.label_config, self._spec.extra_params, self._spec.adapter)
        clicks = await asyncio.to_thread(
            self._executor.clicks.of_tasks, self._spec.project, [int(task["id"]) for task in read.tasks]
        )

        async def fetched(task: Mapping[str, Any]) -> tuple[Mapping[str, Any], Image | str]:
            page = first_page(plan.config, task.get("data") or {})
            if page is None:
                return task, "its data hold no address of an image"
            try:
                data, _ = await self._facilities.fetch(page.address, int(task["id"]))
                return task, await self._facilities.decode(data)
            except (FetchError, ImageError) as error:
                return task, str(error)

        tasks = []
        for number, task in enumerate(read.tasks, start=1):
            if await self._session.over():
                raise WorkEndedError
            tasks.append(await fetched(task))
            await asyncio.to_thread(self._tell, f"fetching images: {number} of {len(read.tasks)}")
        default = self._facilities.settings.prompt
        source = FetchedTasks(tasks, plan.config, plan.params, default, _log.debug)
        corrections = Corrections(source, source.prompts, self._request.group, _log.info, clicks=clicks)
        return await asyncio.to_thread(list, corrections)

    async def _train(self, examples: list[Example]) -> tuple[bytes, dict[str, Any], bool]:
        """The bundle, its report, and whether the gate lets it serve."""
        models = await self._models()
        parent = await asyncio.to_thread(self._parent)
        working = asyncio.get_running_loop().run_in_executor(
            self._executor.threads, self._train_here, models, parent, examples
        )
        while not working.done():
            await asyncio.wait([working], timeout=_LOOK)
            if not working.done() and await self._session.over():
                self._ended.set()
        try:
            return working.result()
        except TrainingEndedError as error:
            if str(error) and not await self._session.over():
                _log.warning("run %s: the training was interrupted: %s", self._run, error)
            raise WorkEndedError from None

    async def _models(self) -> Models:
        try:
            models = await asyncio.wrap_future(self._facilities.engine.lease(lambda models: models))
        except EngineError as error:
            if error.transient or self._session.stopping.is_set():
                raise WorkEndedError from None
            raise RunStopError(str(error)) from None
        if not isinstance(models, Models):
            raise RunStopError("the loaded models cannot learn; choose a profile whose segmenter is of the kind hf")
        return models

    def _parent(self) -> Adaptation | None:
        """What serves now. Raises ``ValueError`` if it cannot be read."""
        return self._facilities.bundles.read(self._request.parent) if self._request.parent else None

    def _train_here(
        self, models: Models, parent: Adaptation | None, examples: list[Example]
    ) -> tuple[bytes, dict[str, Any], bool]:
        request = self._request
        journal = TrainingJournal(self._facilities.store.database, self._run, data_digest(examples))
        turns = Turns(self._facilities.engine, self._ended.is_set)

        def stage_done(done: int, total: int, what: str) -> None:
            self._tell(f"step {done} of {total}: {what}")

        with turns.held():
            outcome = Training(
                segmenter=models.suite.segmenter,
                apply=models.under,
                seed=request.seed,
                steps=request.steps,
                parent=parent or models.adaptation,
                journal=journal,
                stage_done=stage_done,
                pause=turns.pause,
                aside=turns.aside,
            ).run(examples)
        data, report = packed(
            outcome, examples, models.options, seed=request.seed, steps=request.steps, parent=request.parent
        )
        return data, {**report, "why": request.why}, outcome.verdict.promoted

    def _tell(self, stage: str) -> None:
        """Say what the training is at, once a second at most; a database that is away keeps nobody from training."""
        if time.monotonic() - self._told < _TOLD_EVERY:
            return
        self._told = time.monotonic()
        try:
            TrainingJournal(self._facilities.store.database, self._run, "").tell(stage)
        except StoreError as error:
            _log.info("%s", error)


def _result(task: int, version: Version, seconds: float) -> TaskResult:
    figures = version.manifest.figures
    score = float(figures.get("table", {}).get(version.manifest.arm, {}).get("mean", 0.0))
    words = f"{version.name}, {version.manifest.arm}: "
    if version.accepted:
        words += "the gate lets it serve" if version.serving else "kept; another version serves"
    else:
        words += f"the gate refused it: {'; '.join(version.reasons)}"
    return TaskResult(task, TaskState.DONE, score, words, seconds)
