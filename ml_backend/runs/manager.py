"""Runs are started, gone on with and retried here. Used by the command line and by the web pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection, prelabel_obstacles
from ml_backend.labelstudio.task_prompt import PromptError, prompt_of
from ml_backend.runs.errors import RunExistsError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.listing import list_tasks
from ml_backend.runs.queues.base import RunQueue
from ml_backend.runs.types import Run, RunRequest, RunSpec, RunState, TaskState, config_hash
from ml_backend.serving.plan import Plan
from ml_backend.serving.projects import Projects
from ml_backend.settings import Settings
from ml_backend.storage.store import Store

_SHOWN, _VIEWS_SHOWN = 3, 10
NO_LABEL_STUDIO = "no Label Studio is configured; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"


class RunsError(ValueError):
    """The request cannot be met; the message names the remedy, ``field`` what of the request is wrong, or ""."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request for a run.

    Attributes:
        run: the run; None after a dry run.
        joined: it was under way already, and goes on as it was made.
        count: its tasks.
        warnings: what keeps people from seeing the predictions, or may surprise them.
        spec: what was asked for, and what it means.
    """

    run: Run | None
    joined: bool
    count: int
    warnings: tuple[str, ...]
    spec: RunSpec


class Runs:
    """Runs of one backend. Every method blocks, and is safe between threads. Looking and cancelling is the ledger's.

    Args:
        ledger: where runs are kept.
        client: Label Studio; None if none is configured: then runs cannot be started or resumed.
        queue: is told where work is.
        projects: plans how the tasks of a project are annotated.
        store: knows projects as ``/setup`` introduced them, and their adapters.
        settings: the default prompt, and the port that tells several connections of ours apart.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: LabelStudioClient | None,
        queue: RunQueue,
        projects: Projects,
        store: Store,
        settings: Settings,
    ) -> None:
        self.ledger = ledger
        self.queue = queue
        self._client = client
        self._projects = projects
        self._store = store
        self._settings = settings

    def start(
        self, request: RunRequest, *, dry_run: bool = False, stopping: Callable[[], bool] = lambda: False
    ) -> Started:
        """Make a run of a project's tasks, or join the one of the same version that is under way.

        Args:
            request: what it is to do.
            dry_run: only count the tasks.
            stopping: asked now and then while tasks are listed; if it says so, nothing is made.

        Raises:
            RunsError: the labeling config or the request makes no sense, or it was to be stopped.
            LabelStudioError: refused, or not there.
            StoreError: the database cannot be used.
            QueueError: the queue cannot be reached; the run is there and goes on once it can.
        """
        client = self._label_studio()
        spec, warnings = self._resolve(client, request)
        tasks = list_tasks(client, request, spec.model_version, stopping)
        if dry_run:
            return Started(None, False, sum(1 for _ in tasks), tuple(warnings), spec)

        def until_stopped() -> Iterator[int]:
            yield from tasks
            if stopping():
                raise RunsError("stopped while the tasks were listed; nothing was made")

        try:
            run, joined = self.ledger.create(spec, until_stopped()), False
        except RunExistsError as error:
            run, joined = error.run, True
            warnings += _differences(run.spec.request, request)
        if run.state is RunState.ACTIVE:
            self.queue.wake(run.id)
        return Started(run, joined, self.ledger.progress(run.id).total, tuple(warnings), spec)

    def hand_over(self, project: int, label_config: str, extra_params: Any, tasks: Collection[int]) -> Run:
        """Have these tasks done by the run of their version under way, or by a new one, without asking Label Studio.

        Args:
            project: Label Studio's id.
            label_config: the project's.
            extra_params: the connection's.
            tasks: their ids; what the run has already stays as it is.

        Raises:
            RunsError: the labeling config makes no sense.
            LedgerError: the run under way ended just now.
            StoreError: the database cannot be used.
            QueueError: the queue cannot be reached; the run is there and goes on once it can.
        """
        request = RunRequest(project=project, include_annotated=True)  # it was these very tasks that were asked for
        spec, _ = self._spec(request, label_config, extra_params)
        try:
            run = self.ledger.create(spec, tasks)
        except RunExistsError as error:
            run = error.run
            if run.state is RunState.ACTIVE:
                self.ledger.extend(run.id, tasks)
        if run.state is RunState.ACTIVE:
            self.queue.wake(run.id)
        return run

    def resume(self, run_id: str) -> Run:
        """Go on with a stopped or cancelled run, or wake an active one.

        Raises:
            RunsError: the project's labeling config is no longer the run's.
            LedgerError: it is finished, or another run of its version is under way.
            LabelStudioError: refused, or not there.
            QueueError: the queue cannot be reached; the run is active and goes on once it can.
        """
        run = self.ledger.get(run_id)
        facts = self._label_studio().project(run.spec.project)
        if config_hash(str(facts.get("label_config") or "")) != run.spec.config_hash:
            raise RunsError(
                f"the labeling config of project {run.spec.project} is no longer that of run {run_id}; start a new "
                "run, which takes what is missing, or change the config back"
            )
        run = self.ledger.resume(run_id)
        self.queue.wake(run_id)
        return run

    def retry(self, run_id: str, states: Collection[TaskState] = frozenset({TaskState.FAILED})) -> int:
        """Do the failed (or skipped) tasks of a run again; how many there are.

        Raises:
            LedgerError: the run is stopped, cancelled or being prepared.
            QueueError: the queue cannot be reached; the tasks are pending and done once it can.
        """
        count = self.ledger.retry(run_id, states)
        if count:
            self.queue.wake(run_id)
        return count

    def _label_studio(self) -> LabelStudioClient:
        if self._client is None:
            raise RunsError(NO_LABEL_STUDIO)
        return self._client

    def _resolve(self, client: LabelStudioClient, request: RunRequest) -> tuple[RunSpec, list[str]]:
        """What the request means for the project as it is now, and what people should know about it."""
        facts = client.project(request.project)
        if request.view is not None:
            _must_have(client, request.project, request.view)
        text, prompt = str(facts.get("label_config") or ""), request.prompt.strip()
        params, connected = self._params(client, request.project)
        own = self._plan_of(request, text, params).version if connected and prompt else None
        spec, warnings = self._spec(request, text, with_prompt(params, prompt) if prompt else params)
        version = spec.model_version
        warnings += project_warnings(facts, version, set_model_version=request.set_model_version)
        if own not in (None, version):
            warnings.append(
                f"with this prompt predictions carry the version {version}, not the connection's {own}: 'Retrieve "
                "predictions' would make its own"
            )
        return spec, warnings

    def _spec(self, request: RunRequest, label_config: str, extra_params: Any) -> tuple[RunSpec, list[str]]:
        """The run over that labeling config and those params, and the labels that do not take the request's prompt."""
        plan = self._plan_of(request, label_config, extra_params)
        prompts, warnings = self._prompts(plan, request.prompt.strip())
        spec = RunSpec(
            request=request,
            label_config=label_config,
            extra_params=extra_params,
            model_version=plan.version,
            prompt=prompts,
            strategy=", ".join(dict.fromkeys(options.strategy for options in plan.options.values())),
            config_hash=config_hash(label_config),
            adapter=plan.adapter,
        )
        return spec, warnings

    def _plan_of(self, request: RunRequest, label_config: str, extra_params: Any) -> Plan:
        adapter = self._store.adapter_of(str(request.project))
        plan = self._projects.plan(label_config, extra_params, adapter)
        self._projects.remember_version(str(request.project), plan)
        return plan

    def _params(self, client: LabelStudioClient, project: int) -> tuple[Any, bool]:
        """The extra params of our connection, or those that ``/setup`` brought; and whether there is any such."""
        try:
            rows = client.connections(project)
        except LabelStudioError as error:
            if error.status in (0, 401, 404):
                raise
            rows = []
        row = our_connection(rows, self._settings.port)
        if row is not None:
            return row.get("extra_params"), True
        known = [one for one in self._store.projects() if one.id == str(project)]
        return (known[0].extra_params, True) if known else (None, False)

    def _prompts(self, plan: Plan, wanted: str) -> tuple[str, list[str]]:
        """The prompts in words, and the labels for which the one that was asked for does not count."""
        found: dict[str, None] = {}
        others: dict[str, None] = {}
        for image in plan.config.images:
            for target in plan.config.targets(image):
                try:
                    text, source = prompt_of(target, plan.params, self._settings.prompt, {})
                except PromptError as error:
                    raise RunsError(str(error)) from None
                found[text] = None
                if wanted and text != " ".join(wanted.split()):
                    name = target.label.value if target.label else target.control.name
                    others[f"'{name}' keeps its own prompt {text!r} (from the {source})"] = None
        shown = list(found)[:_SHOWN]
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"{'; '.join(shown)}{more}", list(others)


def _must_have(client: LabelStudioClient, project: int, view: int) -> None:
    """Raise ``RunsError`` if the project has no such view; Label Studio itself answers that without a reason."""
    views = client.views(project)
    if view not in views:
        named = (
            f"{number} ({title})" if title else str(number) for number, title in islice(views.items(), _VIEWS_SHOWN)
        )
        raise RunsError(f"project {project} has no view {view}; it has {', '.join(named) or 'none'}", "view")


def with_prompt(params: Any, prompt: str) -> dict[str, Any]:
    """Extra params with another prompt; options and prompts of single labels stay."""
    if isinstance(params, str):
        try:
            params = json.loads(params)
        except ValueError:
            params = None
    return {**(params if isinstance(params, Mapping) else {}), "prompt": prompt}


def project_warnings(project: Mapping[str, Any], version: str, *, set_model_version: bool) -> list[str]:
    """What in a project keeps annotators from seeing a run's predictions, which have that version, or slows it down."""
    found = []
    for obstacle in prelabel_obstacles(project, version):
        if "model_version" not in obstacle.change:
            found.append(f"{obstacle.text}: {obstacle.remedy}")
        elif not set_model_version:
            found.append(f"{obstacle.text}: {obstacle.remedy}, or use --set-model-version, a box in the form of a run")
    if project.get("evaluate_predictions_automatically"):
        found.append(
            "the project asks its ML backend whenever tasks are listed (evaluate_predictions_automatically), which "
            "makes runs slow: set it to false with PATCH /api/projects/ID"
        )
    return found


def _differences(running: RunRequest, wanted: RunRequest) -> list[str]:
    was, asked = running.model_dump(), wanted.model_dump()
    different = [name for name in was if name not in ("project", "prompt") and was[name] != asked[name]]
    if not different:
        return []
    return [f"the run under way was made with another {', '.join(different)}; it goes on as it was made"]
