"""Runs that predict: tasks are looked at, annotated by the service, and their predictions pushed."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from int_model.io.errors import ImageError
from ml_backend.backoff import Backoff
from ml_backend.errors import EngineError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.task_prompt import PromptError
from ml_backend.runs.calls import LabelStudioCalls
from ml_backend.runs.errors import RunStopError, WorkEndedError
from ml_backend.runs.executors import Batch, RunSession
from ml_backend.runs.listing import Existing, TaskView, look_at
from ml_backend.runs.push import Finished, Pusher
from ml_backend.runs.triage import pushed_before, triage
from ml_backend.runs.types import RunSpec, TaskResult, TaskState, config_hash
from ml_backend.serving.annotator import Answer, TaskAnnotator
from ml_backend.serving.plan import Plan
from ml_backend.serving.projects import Projects
from ml_backend.serving.queue import Priority, Waiter
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_OF_THE_TASK = (ConfigError, EngineError, FetchError, ImageError, PromptError)
_FETCHES = 4
_AWAY = 1.0
_MODELS_REST = 30.0
_GRACE = 5.0
_LOOK = 3.0  # seconds between looks whether the run was cancelled


class PredictExecutor:
    """`ml_backend.runs.executors.Executor` of runs that predict.

    Args:
        annotator: annotates tasks, in the same event loop.
        projects: plans how.
        client: Label Studio, without retries of its own.
        check_config: seconds for which the project's labeling config counts as unchanged.
    """

    def __init__(
        self,
        annotator: TaskAnnotator,
        projects: Projects,
        client: LabelStudioClient,
        *,
        check_config: float = 5.0,
    ) -> None:
        self.annotator = annotator
        self.projects = projects
        self.client = client
        self.check_config = check_config
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="runs-http")
        self._last_end = 0.0

    def unfit(self, spec: RunSpec) -> str:
        try:
            plan = self.plan(spec)
        except ConfigError as error:
            return str(error)
        if plan.version != spec.model_version:
            return (
                f"the run is for {spec.model_version}, and the models and settings here make {plan.version}; use the "
                "profile, strategy and settings that the run was made with, or make a new run"
            )
        return self.projects.lacks(plan)

    def open(self, session: RunSession) -> PredictWork:
        return PredictWork(self, session, self.plan(session.run.spec))

    def plan(self, spec: RunSpec) -> Plan:
        """How this process would do a run. Raises ``ConfigError``."""
        return self.projects.plan(spec.label_config, spec.extra_params, spec.adapter)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)

    def seconds_since(self, started: float) -> float:
        """A task's share of the time: since the one before it ended, so that a run's tasks add up to its time."""
        now = time.monotonic()
        began = max(started, self._last_end)
        self._last_end = now
        return round(now - began, 3)


class PredictWork:
    """`ml_backend.runs.executors.RunWork` of a run that predicts."""

    def __init__(self, executor: PredictExecutor, session: RunSession, plan: Plan) -> None:
        self.executor = executor
        self.session = session
        self.plan = plan
        self.spec = session.run.spec
        self.calls = LabelStudioCalls(executor.threads, session.over, session.sleep)
        self.pusher = Pusher(
            executor.client, self.calls, self.spec.project, self.spec.model_version, still_right=self._check_now
        )
        self._checked = -1e9

    async def check(self) -> None:
        """Raises ``RunStopError`` if the labeling config is no longer the run's."""
        if time.monotonic() - self._checked >= self.executor.check_config:
            await self._check_now()

    async def _check_now(self) -> None:
        project = await self.calls.call(self.executor.client.project, self.spec.project)
        if config_hash(str(project.get("label_config") or "")) != self.spec.config_hash:
            raise RunStopError(
                "the project's labeling config was changed during the run; start a new run, which takes what is missing"
            )
        self._checked = time.monotonic()

    async def work(self, batch: Batch) -> None:
        await _BatchWork(self, batch).run()

    async def finished(self) -> None:
        """Look at a sample of what was pushed; let the project show the run's version, if that was asked for."""
        await self._look_at_sample()
        if not self.spec.request.set_model_version:
            return
        change = {"model_version": self.spec.model_version}
        try:
            await self.calls.call(self.executor.client.update_project, self.spec.project, change)
        except LabelStudioError as error:
            _log.warning("the project's model version could not be set: %s", error)

    async def _look_at_sample(self) -> None:
        """A push that arrived late may have left a double; a restored Label Studio may have lost what it took."""
        sample, spec = self.pusher.sample, self.spec
        try:
            lacking = sample - await self.pusher.looks.light(sample)
            views = await self.calls.call(look_at, self.executor.client, spec.project, lacking, spec.model_version)
        except (LabelStudioError, WorkEndedError) as error:
            _log.info("the end of run %s could not be looked at: %s", self.session.run.id, error)
            return
        if gone := [task for task, view in views.items() if not view.predicted]:
            _log.warning(
                "run %s: Label Studio has lost %d of %d predictions that were looked at (task %d is one); see "
                "int-backend runs verify %s",
                self.session.run.id,
                len(gone),
                len(sample),
                gone[0],
                self.session.run.id,
            )

    async def close(self) -> None:
        await self.pusher.close()

    async def annotate(self, view: TaskView) -> Answer:
        """The service's answer, however long Label Studio or the models are away.

        Raises:
            ConfigError, EngineError, FetchError, ImageError, PromptError: this task cannot be annotated.
            RunStopError: the models cannot be loaded.
            WorkEndedError: the run is over, or the process is told to stop.
        """
        tries = 0
        busy, fetching = Backoff(1.0, 30.0), Backoff(1.0, 4.0)
        while not self.session.stopping.is_set():
            try:
                waiter = Waiter(Priority.BATCH, str(self.spec.project))
                return await self.executor.annotator.annotate(view.task, self.plan, waiter)
            except EngineError as error:
                if not error.transient:
                    await self._models_gone()
                    raise
                await self.session.sleep(busy.delay(error.retry_after))
            except FetchError as error:
                tries += 1
                if not error.transient or tries >= _FETCHES:
                    raise
                began = time.monotonic()
                await self.calls.call(self.executor.client.request, "GET", "/api/version")
                if time.monotonic() - began > _AWAY:
                    tries = 0  # Label Studio was away: that was no try
                    fetching.reset()
                await self.session.sleep(fetching.delay())
        raise WorkEndedError

    async def _models_gone(self) -> None:
        """Return if it is this image's fault."""
        engine = self.executor.annotator.engine.status
        if self.session.stopping.is_set() or engine.state == "closed":
            raise WorkEndedError from None
        if engine.state != "failed":
            return
        if self.session.alone:
            raise RunStopError(f"the models could not be loaded: {engine.why}") from None
        await self.session.sleep(_MODELS_REST)  # the engine loads them again; others can take this run meanwhile
        raise WorkEndedError from None


class _BatchWork:
    """The leased tasks of one batch, annotated and pushed at the same time."""

    def __init__(self, work: PredictWork, batch: Batch) -> None:
        self._work = work
        self._batch = batch
        self._annotating = 0
        self._pushing: set[int] = set()

    async def run(self) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        stop = asyncio.create_task(self._work.session.stopping.wait())
        try:
            for view in await self._wanted():
                self._annotating += 1
                tasks[view.task.id or 0] = asyncio.create_task(self._one(view))
            await self._all_or_stop(tasks, stop)
        finally:
            stop.cancel()
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _wanted(self) -> list[TaskView]:
        """Look at the tasks just before the work; what needs none gets its result at once."""
        spec, lease, client = self._work.spec, self._batch.lease, self._work.executor.client
        call = self._work.calls.call
        views = await call(look_at, client, spec.project, lease.tasks, spec.model_version)
        there: dict[int, Existing] = {}
        if again := pushed_before(lease, views):
            there = await self._work.pusher.looks.whole(again)
        if several := [task for task, view in views.items() if view.several and task not in there]:
            await self._work.pusher.looks.whole(several)  # left by a push that arrived late
        wanted, results = triage(spec.request, lease, views, there)
        if results:
            await self._batch.ack(results)
        return wanted

    async def _all_or_stop(self, tasks: dict[int, asyncio.Task[None]], stop: asyncio.Task[bool]) -> None:
        """Wait for all tasks, the first that says the run cannot go on, its cancellation, or the process's end."""
        pending = set(tasks.values())
        looked = time.monotonic()
        while pending and not stop.done():
            finished, _ = await asyncio.wait({*pending, stop}, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            pending -= finished
            for task in finished - {stop}:
                task.result()
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                if await self._work.session.over():
                    break
        if pending:
            for number, task in tasks.items():
                if number not in self._pushing:
                    task.cancel()
            self._work.pusher.flush()
            await asyncio.wait(pending, timeout=_GRACE)

    async def _one(self, view: TaskView) -> None:
        number, started = view.task.id or 0, time.monotonic()
        try:
            answer, reason = await self._annotated(view)
        finally:
            self._annotating -= 1
        seconds = self._work.executor.seconds_since(started)
        if answer is None:
            await self._batch.ack([TaskResult(number, TaskState.FAILED, reason=reason, seconds=seconds)])
        else:
            prediction = answer.prediction.as_json()
            state = TaskState.DONE if prediction["result"] else TaskState.ABSTAINED
            result = TaskResult(number, state, answer.prediction.score, reason, seconds)
            self._pushing.add(number)
            pushed = asyncio.ensure_future(self._work.pusher.push(Finished(self._batch, result, prediction)))
            await asyncio.sleep(0)
            self._flush_if_last()
            await pushed
        self._flush_if_last()

    async def _annotated(self, view: TaskView) -> tuple[Answer | None, str]:
        """The answer and why it is empty; or None and why the task failed."""
        try:
            answer = await self._work.annotate(view)
        except _OF_THE_TASK as error:
            return None, " ".join(str(error).split())[:500]
        except (WorkEndedError, RunStopError, LabelStudioError, StoreError):
            raise
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise WorkEndedError from None  # the service is being closed
        except Exception as error:  # noqa: BLE001 - logged by the service; one task must not end a run of thousands
            return None, f"unexpected {type(error).__name__}; the log says more"
        return answer, answer.reason

    def _flush_if_last(self) -> None:
        if self._annotating == 0:  # nothing of this lease is worth waiting for
            self._work.pusher.flush()
