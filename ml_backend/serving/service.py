"""What the endpoints do: projects, predictions within a deadline, versions. Knows no HTTP framework and no torch."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from int_model.io.errors import ImageError
from int_model.io.images import prepare
from int_model.runner.results import StoredResult
from ml_backend.fetching.images import FetchError, ImageFetcher
from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig, Target, only_images, parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions, options_for
from ml_backend.labelstudio.pages import pages_of
from ml_backend.labelstudio.predictions import ImageRegions, image_regions
from ml_backend.labelstudio.task_prompt import (
    ConnectionParams,
    PromptError,
    PromptGroup,
    group_by_prompt,
    parse_extra_params,
)
from ml_backend.labelstudio.wire import PredictIn, PredictionOut, SetupIn, TaskIn, fresh_id, parse_task, with_fresh_ids
from ml_backend.serving.engine import BusyError, Engine, EngineError, Priority
from ml_backend.serving.interactive import Interactive, empty, valid_or_empty
from ml_backend.serving.metrics import Metrics
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.serving.plan import Plan
from ml_backend.serving.results import Results
from ml_backend.serving.turnstile import Ticket, Turnstile
from ml_backend.serving.versions import model_version
from ml_backend.settings import Settings
from ml_backend.storage.database import StoreError
from ml_backend.storage.store import Project, Store

_log = logging.getLogger(__name__)
T = TypeVar("T")

_EXPECTED = (ConfigError, EngineError, FetchError, ImageError, PromptError)
_SETUP_WRITE_SECONDS = 1.0
_TAKE_SECONDS = 5.0
_MAX_PENDING = 50_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task; ``reason`` says why the prediction is empty or lacks an image, or is ""."""

    prediction: PredictionOut
    reason: str = ""


class LateTasks(Protocol):
    """Where tasks go that are not ready in time; see `ml_backend.runs.from_predict`. Blocking."""

    def taken(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those that a batch run of that version does, or did."""
        ...

    def pushed(self, project: str, version: str, tasks: Collection[int]) -> frozenset[int]:
        """Those that it is at, or did."""
        ...

    def take(self, project: str, label_config: str, extra_params: Any, tasks: Collection[int]) -> bool:
        """Have them done in the background; whether somebody will."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A task on its way: its coroutine, and how urgent it is."""

    work: asyncio.Task[Answer]
    ticket: Ticket


class Service:
    """The backend's logic; lives in one event loop between `start` and `close`."""

    def __init__(
        self, settings: Settings, identity: ModelIdentity, engine: Engine, fetcher: ImageFetcher, store: Store
    ) -> None:
        self.engine = engine
        self.metrics = Metrics(
            lambda: engine.status.waiting,
            lambda: engine.status.state == "ready",
            engine.memory,
            lambda: engine.status.out_of_memory,
        )
        self.problems: deque[str] = deque(maxlen=50)
        self.late_tasks: LateTasks | None = None
        self._settings = settings
        self._identity = identity
        self._fetcher = fetcher
        self._store = store
        self._projects: dict[str, Project] = {}
        self._turnstile = Turnstile(settings.downloads + 2 * settings.micro_batch)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="service")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._runs: dict[str, _Run] = {}
        self._results = Results(
            engine,
            store,
            fetcher.fetch,
            self._in_thread,
            self._report,
            self.metrics,
            identity=identity,
            max_pixels=settings.max_image_pixels,
        )
        self._interactive = Interactive(
            engine,
            fetcher.fetch,
            self._in_thread,
            self._report,
            self.metrics,
            max_pixels=settings.max_image_pixels,
            images_at_once=settings.downloads,
        )

    async def start(self) -> None:
        """Read the known projects and begin to load the models; waits for neither the models nor the network."""
        await self._in_thread(prepare)
        try:
            for project in await self._in_thread(self._store.projects):
                self._projects[project.id] = project
        except StoreError as error:
            self._report("the known projects", error)
        self.engine.start()

    async def close(self) -> None:
        """Stop all work; what is at the models is finished, the rest is dropped (Label Studio asks again)."""
        work = [run.work for run in self._runs.values()]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._results.close()
        await self._interactive.close()
        await asyncio.to_thread(self.engine.close)
        await self._fetcher.close()
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._store.close)

    # --- projects

    async def setup(self, request: SetupIn) -> str:
        """Remember a project; returns its model version. Waits at most a second for the database."""
        await asyncio.to_thread(_parsed_or_error, request.label_config)  # a long one must not hold up /health
        known = self._projects.get(request.project)
        project = Project(request.project, request.extra_params, request.label_config)
        if known != project:
            self._projects[project.id] = project
            await self._remember(project)
            self._explain(project)
        return self._version_of(project)

    def versions(self, project_id: str = "") -> list[str]:
        """The model versions in use: of one project, or of all."""
        known = self._projects.get(project_id) if project_id else None
        projects = [known] if known is not None else list(self._projects.values())
        return list(dict.fromkeys(map(self._version_of, projects))) or [self._version_of(Project(""))]

    async def project_updated(self, project_id: str, label_config: str) -> None:
        """Take over a changed labeling config of a project that is known."""
        known = self._projects.get(project_id)
        if known is not None and label_config and label_config != known.label_config:
            project = Project(known.id, known.extra_params, label_config)
            self._projects[project.id] = project
            await self._remember(project)

    async def _remember(self, project: Project) -> None:
        writing = asyncio.wrap_future(self._writer.submit(self._store.save_project, project))
        try:
            await asyncio.wait_for(asyncio.shield(writing), _SETUP_WRITE_SECONDS)
        except TimeoutError:
            _log.warning("the database is slow; project %s is written later", project.id)
        except StoreError as error:
            self._report(f"project {project.id}", error)

    def _explain(self, project: Project) -> None:
        """Log what will not work with a project, since Label Studio shows none of it."""
        params = parse_extra_params(project.extra_params)
        warnings = [params.warning] if params.warning else []
        try:
            config = _parsed(project.label_config)
            warnings += config.warnings
            warnings += self._options(config, params)[1]
        except ConfigError as error:
            warnings.append(str(error))
        for warning in warnings:
            self._report(f"project {project.id}", warning)

    def _version_of(self, project: Project) -> str:
        try:
            config: LabelingConfig | str = _parsed(project.label_config)
        except ConfigError:
            config = project.label_config
        return self._version(config, parse_extra_params(project.extra_params))

    def _version(self, config: LabelingConfig | str, params: ConnectionParams) -> str:
        settings = self._settings
        return model_version(self._identity, config, params, settings.prompt, settings.output, settings.max_regions)

    def _options(
        self, config: LabelingConfig, params: ConnectionParams
    ) -> tuple[dict[str, OutputOptions], tuple[str, ...]]:
        chosen = {c.name: options_for(c, params.options, self._settings.output) for c in config.controls}
        warnings = tuple(dict.fromkeys(text for entry in chosen.values() for text in entry.warnings))
        return {name: entry.options for name, entry in chosen.items()}, warnings

    # --- predictions

    async def predict(self, request: PredictIn) -> list[Any]:
        """One entry per task: a prediction as plain data, or ``[]`` where it failed or is not ready in time.

        What is not ready is handed to a batch run (`late_tasks`), or goes on in the background and is served from the
        store when it is asked for again. What a batch run pushes anyway is ``[]``, too. An interactive request never
        gets a ``[]``, but an empty prediction.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.deadline
        try:
            plan = await self._in_thread(self._plan, request)
        except ConfigError as error:
            self._report(f"project {request.project}", error)
            if request.is_interactive:
                version = self._version(request.label_config, ConnectionParams())
                return [empty(version) for _ in request.tasks]
            self.metrics.tasks.labels("failed").inc(len(request.tasks))
            return [[] for _ in request.tasks]
        if request.is_interactive and not plan.typed:
            return await self._interactive.answer(request, plan, deadline)
        priority = Priority.INTERACTIVE if request.is_interactive else Priority.PREDICT
        tasks = await self._in_thread(lambda: [parse_task(entry) for entry in request.tasks])
        keys = await self._in_thread(lambda: [_key(request.project, task, plan) for task in tasks])
        late_tasks = None if request.is_interactive else self.late_tasks
        theirs: frozenset[int] = frozenset()
        if late_tasks is not None:
            ask = late_tasks.taken if len(tasks) > 1 else late_tasks.pushed  # a single one: an annotator waits for it
            theirs = await self._in_thread(ask, request.project, plan.version, _ids(tasks))
        runs: list[_Run | None] = []
        for index, (key, task) in enumerate(zip(keys, tasks, strict=True)):
            runs.append(None if task.id in theirs else self._begin(key, task, plan, priority))
            if index % 100 == 99:  # a long list must not hold up /health
                await asyncio.sleep(0)
        waiting = {run.work for run in runs if run is not None}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=max(0.0, deadline - loop.time()))
            if late:
                _log.info("%d of %d tasks go on in the background", len(late), len(runs))
        for run in runs:
            if run is not None and not run.work.done():
                run.ticket.priority = Priority.BATCH
        if late_tasks is not None:
            await self._hand_over(late_tasks, request, tasks, runs, theirs)
            done = await self._in_thread(late_tasks.pushed, request.project, plan.version, _ids(tasks))
            runs = [None if task.id in done else run for task, run in zip(tasks, runs, strict=True)]
        results = await self._in_thread(lambda: [self._entry(run) for run in runs])
        return valid_or_empty(results, plan.version) if request.is_interactive else results

    async def _hand_over(
        self,
        late_tasks: LateTasks,
        request: PredictIn,
        tasks: list[TaskIn],
        runs: list[_Run | None],
        theirs: frozenset[int],
    ) -> None:
        """Let a batch run do what is late; our own work on it ends, unless somebody else waits for it."""
        late = [
            (task.id, run)
            for task, run in zip(tasks, runs, strict=True)
            if task.id is not None and task.id not in theirs and (run is None or not run.work.done())
        ]
        if not late:
            return
        project = self._projects.get(request.project, Project(request.project))
        text = request.label_config or project.label_config
        ids = [task for task, _ in late]
        taking = asyncio.create_task(self._in_thread(late_tasks.take, request.project, text, project.extra_params, ids))
        done, _ = await asyncio.wait([taking], timeout=_TAKE_SECONDS)  # Label Studio waits no longer either
        if done and taking.result():
            for _, run in late:
                if run is not None and run.ticket.priority == Priority.BATCH:
                    run.work.cancel()

    def plan(self, label_config: str, extra_params: Any) -> Plan:
        """How the tasks of a project with that labeling config and those extra params are annotated.

        Raises ``ConfigError`` if the config has no use for predictions of ours. Blocking, but quick.
        """
        config, params = _parsed(label_config), parse_extra_params(extra_params)
        return Plan(config, params, self._options(config, params)[0], self._version(config, params), "")

    async def annotate(self, task: TaskIn, plan: Plan) -> Answer:
        """A task's prediction, for batch runs: after everything that somebody waits for, however long it takes.

        Raises:
            ConfigError, EngineError, FetchError, ImageError, PromptError: this task cannot be annotated, and why.
        """
        run = self._begin(await self._in_thread(_key, "", task, plan), task, plan, Priority.BATCH)
        if run is None:
            raise BusyError("too many tasks are waiting for the models already; try again later")
        return await asyncio.shield(run.work)

    def _plan(self, request: PredictIn) -> Plan:
        project = self._projects.get(request.project, Project(request.project))
        params = parse_extra_params(project.extra_params)
        text = request.label_config or project.label_config
        try:
            config = _parsed(text)
        except ConfigError:
            if not request.is_interactive or request.typed_prompt:
                raise
            config = only_images(text)
        options, _ = self._options(config, params)
        return Plan(config, params, options, self._version(config, params), request.typed_prompt)

    def _begin(self, key: str, task: TaskIn, plan: Plan, priority: Priority) -> _Run | None:
        """Start a task, or join it if the very same one is on its way; None if far too many are."""
        known = self._runs.get(key)
        if known is not None:
            known.ticket.priority = min(known.ticket.priority, priority)
            return known
        if len(self._runs) >= _MAX_PENDING:
            self._report(f"task {task.id}", f"{len(self._runs)} tasks are waiting already; try again later")
            return None
        ticket = Ticket(priority)
        run = _Run(asyncio.get_running_loop().create_task(self._predict_task(task, plan, ticket)), ticket)
        self._runs[key] = run
        run.work.add_done_callback(functools.partial(self._ended, key, task.id))
        return run

    def _ended(self, key: str, task_id: int | None, work: asyncio.Task[Answer]) -> None:
        self._runs.pop(key, None)
        if work.cancelled():
            return
        error = work.exception()
        if error is None:
            self.metrics.tasks.labels("annotated" if work.result().prediction.result else "nothing_found").inc()
            return
        self.metrics.tasks.labels("failed").inc()
        if isinstance(error, _EXPECTED):
            self._report(f"task {task_id}", error)
        else:
            incident = fresh_id()
            _log.error("task %s failed unexpectedly, incident %s", task_id, incident, exc_info=error)
            self.problems.append(f"task {task_id}: unexpected {type(error).__name__}, incident {incident} in the log")

    def _entry(self, run: _Run | None) -> Any:
        if run is None or not run.work.done():
            self.metrics.tasks.labels("late").inc()
            return []
        if run.work.cancelled() or run.work.exception() is not None:
            return []
        return with_fresh_ids(run.work.result().prediction.as_json())

    async def _predict_task(self, task: TaskIn, plan: Plan, ticket: Ticket) -> Answer:
        drawn: list[ImageRegions] = []
        reasons: list[str] = []
        missing: list[tuple[str, ValueError]] = []
        for page in pages_of(plan.config, task.data):
            groups = self._groups(plan.config.targets(page.image.name), plan, task)
            try:
                if page.error is not None:
                    raise page.error
                async with self._turnstile.pass_through(ticket):
                    found = await self._results.of_image(page.address, task.id, groups, ticket)
            except (ConfigError, FetchError, ImageError) as error:
                if isinstance(error, FetchError) and error.transient:
                    raise  # the whole task may do later
                missing.append((page.name, error))
                continue
            results = list(zip(groups, found, strict=True))
            reasons += [result.reason for result in found if result.reason]
            drawn.append(await self._draw(plan, results, page.item_index))
        if missing and not drawn:
            raise missing[0][1]
        left_out = "; ".join(f"{name} is left out: {error}" for name, error in missing)
        if left_out:
            self._report(f"task {task.id}", left_out)
        shown = [entry for entry in drawn if entry.regions]
        score = sum(entry.score for entry in shown) / len(shown) if shown else 0.0
        regions = [region for entry in shown for region in entry.regions]
        prediction = PredictionOut(result=regions, score=round(score, 4), model_version=plan.version)
        nothing = "what was found is below the score threshold, too small, or has no fitting label"
        empty = "" if regions else "; ".join(dict.fromkeys(reasons)) or nothing
        return Answer(prediction, "; ".join(filter(None, (left_out, empty))))

    def _groups(self, targets: list[Target], plan: Plan, task: TaskIn) -> list[PromptGroup]:
        chosen = {name: options.strategy for name, options in plan.options.items()}
        other = {name: strategy for name, strategy in chosen.items() if strategy != self._identity.strategy}
        return group_by_prompt(targets, plan.params, self._settings.prompt, task.data, plan.typed, other)

    async def _draw(
        self, plan: Plan, results: list[tuple[PromptGroup, StoredResult]], item_index: int | None
    ) -> ImageRegions:
        limit = self._settings.max_regions
        with self.metrics.stage.labels("draw").time():
            return await self._in_thread(image_regions, plan.config, results, plan.options, limit, item_index)

    # --- helpers

    def status(self) -> dict[str, Any]:
        """For operators: the models' state, queues, the last problems."""
        engine = self.engine.status
        return {
            "models": engine.state,
            "why": engine.why,
            "waiting_for_models": engine.waiting,
            "at_the_models": engine.working,
            "waiting_clicks": engine.clicks,
            "out_of_memory": dict(engine.out_of_memory),
            "tasks_on_their_way": len(self._runs),
            "versions": self.versions(),
            "problems": list(self.problems),
        }

    async def render(self, content: Any, dump: Callable[[Any], str]) -> str:
        """Turn an answer into text in a thread: masks make it large."""
        return await self._in_thread(dump, content)

    def _report(self, what: str, problem: object) -> None:
        _log.warning("%s: %s", what, problem)
        self.problems.append(f"{what}: {problem}")

    def _in_thread(self, function: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
        """Run blocking work in the service's own few threads."""

        async def run() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args))

        return run()


@functools.lru_cache(maxsize=256)
def _parsed_or_error(text: str) -> LabelingConfig | ConfigError:
    try:
        return parse_label_config(text)
    except ConfigError as error:
        return error


def _parsed(text: str) -> LabelingConfig:
    found = _parsed_or_error(text)
    if isinstance(found, ConfigError):
        raise ConfigError(str(found))
    return found


def _key(project: str, task: TaskIn, plan: Plan) -> str:
    """What tells one piece of work from another. For a thread: an image within the data makes it slow."""
    text = json.dumps([project, task.id, task.data, plan.version, plan.typed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _ids(tasks: list[TaskIn]) -> list[int]:
    return [task.id for task in tasks if task.id is not None]
