"""What ``/predict`` answers: what is ready by the deadline, and nothing for the rest, which goes on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.wire import PredictIn, TaskIn, parse_task, with_fresh_ids
from ml_backend.serving.annotator import Answer, TaskAnnotator
from ml_backend.serving.interactive import Interactive, empty, valid_or_empty
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.plan import Plan
from ml_backend.serving.projects import Projects
from ml_backend.serving.queue import Priority, Waiter
from ml_backend.serving.results import Results
from ml_backend.serving.status import Status
from ml_backend.serving.threads import Threads

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


class Predictions:
    """Answers ``/predict``; lives in one event loop.

    Args:
        projects: what is known of them.
        annotator: annotates tasks.
        results: what the annotator waits for.
        interactive: answers clicks; closed with this.
        threads: run blocking work.
        status: is told of requests that fail.
        metrics: counts tasks.
        deadline: seconds until a request is answered.
        late_tasks: takes what is not ready by then; None: it goes on in the background.
    """

    def __init__(
        self,
        projects: Projects,
        annotator: TaskAnnotator,
        results: Results,
        interactive: Interactive,
        threads: Threads,
        status: Status,
        metrics: Metrics,
        *,
        deadline: float,
        late_tasks: LateTasks | None = None,
    ) -> None:
        self._projects = projects
        self._annotator = annotator
        self._results = results
        self._interactive = interactive
        self._threads = threads
        self._status = status
        self._metrics = metrics
        self._deadline = deadline
        self._late_tasks = late_tasks
        self._at_work: set[asyncio.Task[Answer]] = set()

    async def close(self) -> None:
        """Drop what is on its way; Label Studio asks again."""
        work = list(self._at_work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._interactive.close()

    async def predict(self, request: PredictIn) -> list[Any]:
        """One entry per task: a prediction as plain data, or ``[]`` where it failed or is not ready in time.

        What is not ready is handed to a batch run (`LateTasks`), or goes on in the background and is served from the
        store when it is asked for again. What a batch run pushes anyway is ``[]``, too. An interactive request never
        gets a ``[]``, but an empty prediction.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline
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
        if request.is_interactive:
            asked = await self._begin(request, plan, Priority.INTERACTIVE)
            await self._wait(asked, deadline)
            self._go_on(asked)
            return valid_or_empty(await self._threads(self._answer, asked), plan.version)
        late_tasks = self._late_tasks
        if late_tasks is None:
            asked = await self._begin(request, plan, Priority.PREDICT)
            await self._wait(asked, deadline)
        else:
            asked = await self._beside_runs(late_tasks, request, plan, deadline)
        self._go_on(asked)
        return await self._threads(self._answer, asked)

    async def _beside_runs(
        self, late_tasks: LateTasks, request: PredictIn, plan: Plan, deadline: float
    ) -> list[_Asked]:
        """Leave tasks to the run that has them, and hand over what is late."""
        single = len(request.tasks) == 1  # an annotator waits for it
        asked = await self._begin(request, plan, Priority.PREDICT, late_tasks.pushed if single else late_tasks.taken)
        theirs = {entry.task.id for entry in asked if entry.work is None}
        if single and theirs:
            await self._annotator.hurry(asked[0].task, plan)
        await self._wait(asked, deadline)
        late = [entry for entry in asked if entry.late and entry.task.id is not None]
        if late and await self._hand_over(late_tasks, request, _ids(late)):
            for entry in late:
                self._drop(entry)
        ids = _ids(asked)
        done = await self._threads(late_tasks.pushed, request.project, plan.version, ids) if ids else frozenset()
        for entry in asked:
            if entry.task.id in done:
                self._drop(entry)
        return asked

    async def _begin(
        self,
        request: PredictIn,
        plan: Plan,
        priority: Priority,
        theirs: Callable[[str, str, Collection[int]], frozenset[int]] | None = None,
    ) -> list[_Asked]:
        """Start all tasks but those that ``theirs`` says are done by a run."""
        tasks = await self._threads(lambda: [parse_task(entry) for entry in request.tasks])
        asked = [_Asked(task, Waiter(priority)) for task in tasks]
        left: frozenset[int] = frozenset()
        if theirs is not None:
            left = await self._threads(theirs, request.project, plan.version, _ids(asked))
        for index, entry in enumerate(asked):
            if entry.task.id not in left:
                entry.work = asyncio.create_task(self._annotator.annotate(entry.task, plan, entry.waiter))
                self._at_work.add(entry.work)
                entry.work.add_done_callback(self._ended)
            if index % 100 == 99:  # a long list must not hold up /health
                await asyncio.sleep(0)
        return asked

    async def _wait(self, asked: list[_Asked], deadline: float) -> None:
        """Until the deadline. What is late then is no more urgent than a batch run."""
        works = [entry.work for entry in asked if entry.work is not None]
        if works:
            await asyncio.wait(works, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        late = [entry for entry in asked if entry.late]
        for entry in late:
            self._results.set_priority(entry.waiter, Priority.BATCH)
        if late:
            _log.info("%d of %d tasks go on in the background", len(late), len(asked))

    async def _hand_over(self, late_tasks: LateTasks, request: PredictIn, tasks: list[int]) -> bool:
        """Let a batch run do what is late; whether it will."""
        project = self._projects.asked(request)
        config, extra_params = project.label_config, project.extra_params
        taking = asyncio.create_task(self._threads(late_tasks.take, request.project, config, extra_params, tasks))
        done, _ = await asyncio.wait([taking], timeout=_TAKE_SECONDS)  # Label Studio waits no longer either
        return bool(done) and taking.result()

    def _go_on(self, asked: list[_Asked]) -> None:
        """What is late is finished without its request."""
        for entry in asked:
            if entry.late:
                self._results.leave(entry.waiter, keep=True)
                self._drop(entry)

    def _ended(self, work: asyncio.Task[Answer]) -> None:
        self._at_work.discard(work)
        if not work.cancelled():
            work.exception()  # asked for, so that asyncio does not complain where the answer is not needed any more

    def _drop(self, entry: _Asked) -> None:
        if entry.work is not None:
            entry.work.cancel()
        entry.work = None

    def _answer(self, asked: list[_Asked]) -> list[Any]:
        return [self._entry(entry.work) for entry in asked]

    def _entry(self, work: asyncio.Task[Answer] | None) -> Any:
        if work is None:
            self._metrics.tasks.labels("late").inc()
            return []
        if work.cancelled() or work.exception() is not None:
            return []
        return with_fresh_ids(work.result().prediction.as_json())


def _ids(asked: list[_Asked]) -> list[int]:
    return [entry.task.id for entry in asked if entry.task.id is not None]
