"""What ``/predict`` answers: what is ready by the deadline, and nothing for the rest, which goes on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.wire import PredictIn, TaskIn, parse_task, with_fresh_ids
from ml_backend.serving.annotator import Answer, TaskAnnotator
from ml_backend.serving.facilities import Facilities
from ml_backend.serving.interactive import Interactive, empty, valid_or_empty
from ml_backend.serving.plan import Plan
from ml_backend.serving.projects import Projects
from ml_backend.serving.queue import Priority, Waiter
from ml_backend.serving.results import Results
from ml_backend.serving.tasks import Tasks

_log = logging.getLogger(__name__)
_TAKE_SECONDS = 5.0


class LateTasks(Protocol):
    """Where tasks go that are not ready in time; see `ml_backend.runs.from_predict`. Blocking."""

    def taken(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those that a batch run of that version does, or did."""
        ...

    def pushed(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those that it is at, or did."""
        ...

    def take(self, project: str, label_config: str, extra_params: Any, tasks: Collection[int]) -> bool:
        """Have them done in the background; whether that will happen."""
        ...


@dataclass(slots=True, eq=False)
class _Asked:
    """A task of a request: what is being done for it (None: a batch run does it), and how urgent that is."""

    task: TaskIn
    waiter: Waiter
    work: asyncio.Task[Answer] | None = None

    @property
    def late(self) -> bool:
        """Whether we are still at it."""
        return self.work is not None and not self.work.done()

    def drop(self) -> None:
        """End our own work on it."""
        if self.work is not None:
            self.work.cancel()
        self.work = None


class Predictions:
    """Answers ``/predict``; lives in one event loop.

    Args:
        facilities: of the service.
        projects: what is known of them.
        annotator: annotates tasks.
        results: what the annotator waits for.
        late_tasks: takes what is not ready in time; None: it goes on in the background.
    """

    def __init__(
        self,
        facilities: Facilities,
        projects: Projects,
        annotator: TaskAnnotator,
        results: Results,
        late_tasks: LateTasks | None = None,
    ) -> None:
        self._deadline = facilities.settings.deadline
        self._threads = facilities.threads
        self._status = facilities.status
        self._metrics = facilities.metrics
        self._projects = projects
        self._annotator = annotator
        self._results = results
        self._late_tasks = late_tasks
        self._interactive = Interactive(facilities)
        self._tasks = Tasks()

    async def close(self) -> None:
        """Drop what is on its way; Label Studio asks again."""
        await self._tasks.close()
        await self._interactive.close()

    async def predict(self, request: PredictIn) -> list[Any]:
        """One entry per task: a prediction as plain data, or ``[]`` where it failed or is not ready in time.

        What is not ready is handed to a batch run (`LateTasks`), or goes on in the background and is served from the
        store when it is asked for again. What a batch run pushes anyway is ``[]``, too. An interactive request never
        gets a ``[]``, but an empty prediction.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline
        await self._projects.refresh(request.project)
        try:
            plan = await self._threads(self._projects.plan_of, request)
        except ConfigError as error:
            self._status.report(f"project {request.project}", error)
            if request.is_interactive:
                version = await self._threads(self._projects.version_of_text, request.label_config)
                return [empty(version) for _ in request.tasks]
            self._metrics.tasks.labels("failed").inc(len(request.tasks))
            return [[] for _ in request.tasks]
        if request.is_interactive and not plan.typed:
            return await self._interactive.answer(request, plan, deadline)
        late_tasks = None if request.is_interactive else self._late_tasks
        asked = await self._begin(request, plan, late_tasks)
        works = [entry.work for entry in asked if entry.work is not None]
        if works:
            await asyncio.wait(works, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        late = [entry for entry in asked if entry.late]
        for entry in late:
            self._results.set_priority(entry.waiter, Priority.BATCH)
        if late_tasks is not None:
            await self._leave_to_runs(late_tasks, request, plan, asked, late)
        for entry in late:
            if entry.late:
                self._results.leave(entry.waiter, keep=True)
                entry.drop()
        if late:
            _log.info("%d of %d tasks were not ready in time", len(late), len(asked))
        results = await self._threads(lambda: [self._entry(entry.work) for entry in asked])
        return valid_or_empty(results, plan.version) if request.is_interactive else results

    async def _begin(self, request: PredictIn, plan: Plan, late_tasks: LateTasks | None) -> list[_Asked]:
        """Start all tasks but those that a batch run does."""
        priority = Priority.INTERACTIVE if request.is_interactive else Priority.PREDICT
        tasks = await self._threads(lambda: [parse_task(entry) for entry in request.tasks])
        asked = [_Asked(task, Waiter(priority, request.project)) for task in tasks]
        single = len(asked) == 1  # an annotator waits for it: only what a run is at is left to the run
        theirs: frozenset[int] = frozenset()
        if late_tasks is not None:
            ask = late_tasks.pushed if single else late_tasks.taken
            theirs = await self._threads(ask, request.project, plan.version, _ids(asked))
        for index, entry in enumerate(asked):
            if entry.task.id not in theirs:
                entry.work = self._tasks.start(self._annotator.annotate(entry.task, plan, entry.waiter))
            elif single:
                await self._annotator.hurry(entry.task, plan)
            if index % 100 == 99:  # a long list must not hold up /health
                await asyncio.sleep(0)
        return asked

    async def _leave_to_runs(
        self, late_tasks: LateTasks, request: PredictIn, plan: Plan, asked: list[_Asked], late: list[_Asked]
    ) -> None:
        """Let a batch run do what is late, and drop what one has done meanwhile."""
        known = [entry for entry in late if entry.task.id is not None]
        if known:
            project = self._projects.asked(request)
            params = (project.id, project.label_config, project.extra_params, _ids(known))
            taking = asyncio.create_task(self._threads(late_tasks.take, *params))
            done, _ = await asyncio.wait([taking], timeout=_TAKE_SECONDS)  # Label Studio waits no longer either
            if done and taking.result():
                for entry in known:
                    entry.drop()
        pushed = await self._threads(late_tasks.pushed, request.project, plan.version, _ids(asked))
        for entry in asked:
            if entry.task.id in pushed:
                entry.drop()

    def _entry(self, work: asyncio.Task[Answer] | None) -> Any:
        if work is None:
            self._metrics.tasks.labels("late").inc()
            return []
        if work.cancelled() or work.exception() is not None:
            return []
        return with_fresh_ids(work.result().prediction.as_json())


def _ids(asked: list[_Asked]) -> list[int]:
    return [entry.task.id for entry in asked if entry.task.id is not None]
