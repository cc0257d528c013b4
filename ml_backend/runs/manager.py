"""What people do with runs: start, look, cancel, resume, retry. Used by the command line and by the web pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.connections import our_connection, prelabel_obstacles
from ml_backend.labelstudio.task_prompt import PromptError, prompt_of
from ml_backend.runs.batch import config_hash
from ml_backend.runs.ledger import Ledger, RunExistsError
from ml_backend.runs.listing import list_tasks
from ml_backend.runs.queues.base import RunQueue
from ml_backend.runs.types import Progress, Run, RunSpec, RunState, TaskRecord, TaskState
from ml_backend.serving.plan import Plan
from ml_backend.storage.store import Project

_SHOWN = 3
NO_LABEL_STUDIO = "no Label Studio is configured; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"


class RunsError(ValueError):
    """What was asked for cannot be done; the message names the cure."""


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a wish for a run.

    Attributes:
        run: the run; None after a dry run.
        joined: it was under way already, and goes on as it was made.
        count: its tasks.
        warnings: what keeps people from seeing the predictions, or may surprise them.
        version: the model version that the predictions carry.
        prompt: the task prompt in words.
    """

    run: Run | None
    joined: bool
    count: int
    warnings: tuple[str, ...]
    version: str
    prompt: str


class Runs:
    """Runs of one backend. Every method blocks, and is safe between threads.

    Args:
        ledger: where runs are kept.
        client: Label Studio; None if none is configured: then runs can be looked at, but not started or resumed.
        queue: is told where work is.
        plan: see `Service.plan`.
        default_prompt: the settings' prompt.
        port: that the backend listens on; it tells several connections of ours apart.
        known_projects: what ``/setup`` has introduced, for projects whose connection cannot be read.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: LabelStudioClient | None,
        queue: RunQueue,
        plan: Callable[[str, Any], Plan],
        *,
        default_prompt: str = "",
        port: int = 0,
        known_projects: Callable[[], Sequence[Project]] = tuple,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._queue = queue
        self._plan = plan
        self._default_prompt = default_prompt
        self._port = port
        self._known_projects = known_projects

    def start(
        self,
        project: int,
        *,
        view: int | None = None,
        prompt: str = "",
        limit: int | None = None,
        only_missing: bool = False,
        include_annotated: bool = False,
        set_model_version: bool = False,
        dry_run: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Started:
        """Make a run of a project's tasks, or join the one of the same version that is under way.

        Args:
            project: Label Studio's id.
            view: take the tasks of this Data Manager view.
            prompt: instead of the connection's, for labels that have none of their own.
            limit: most tasks.
            only_missing: leave out tasks that have a prediction of this version.
            include_annotated: also tasks that people annotated, skipped or began.
            set_model_version: let the project show this version when the run ends.
            dry_run: only count.
            stopping: asked now and then while tasks are listed; if it says so, nothing is made.

        Raises:
            RunsError: the labeling config or the wish makes no sense, or it was to be stopped.
            LabelStudioError: refused, or not there.
            StoreError: the database cannot be used.
            QueueError: the queue cannot be reached; the run is there and goes on once it can.
        """
        if limit is not None and limit < 1:
            raise RunsError("a limit must be at least 1")
        client = self._label_studio()
        facts = client.project(project)
        text = str(facts.get("label_config") or "")
        params, connected = self._params(client, project)
        own = self._plan(text, params).version if connected and prompt.strip() else None
        if prompt.strip():
            params = with_prompt(params, prompt.strip())
        plan = self._plan(text, params)
        prompts, warnings = self._prompts(plan, prompt.strip())
        warnings += project_warnings(facts, plan.version, set_model_version=set_model_version)
        if own not in (None, plan.version):
            warnings.append(
                f"with this prompt predictions carry the version {plan.version}, not the connection's {own}: 'Retrieve "
                "predictions' would make its own"
            )
        spec = RunSpec(
            project=project,
            label_config=text,
            extra_params=params,
            model_version=plan.version,
            prompt=prompts,
            strategy=_strategies(plan),
            config_hash=config_hash(text),
            view=view,
            only_missing=only_missing,
            include_annotated=include_annotated,
            limit=limit,
            set_model_version=set_model_version,
        )
        tasks = list_tasks(
            client,
            project,
            plan.version,
            view=view,
            only_missing=only_missing,
            include_annotated=include_annotated,
            limit=limit,
            stopping=stopping,
        )
        if dry_run:
            return Started(None, False, sum(1 for _ in tasks), tuple(warnings), plan.version, prompts)

        def until_stopped() -> Any:
            yield from tasks
            if stopping():
                raise RunsError("stopped while the tasks were listed; nothing was made")

        try:
            run, joined = self._ledger.create(spec, until_stopped()), False
        except RunExistsError as error:
            run, joined = error.run, True
            warnings += _differences(run.spec, spec)
        if run.state is RunState.ACTIVE:
            self._queue.wake(run.id)
        count = self._ledger.progress(run.id).total
        return Started(run, joined, count, tuple(warnings), plan.version, prompts)

    def hand_over(self, project: int, label_config: str, extra_params: Any, tasks: Collection[int]) -> Run:
        """Have these tasks done by the run of their version that is under way, or by a new one. Asks nobody.

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
        plan = self._plan(label_config, extra_params)
        spec = RunSpec(
            project=project,
            label_config=label_config,
            extra_params=extra_params,
            model_version=plan.version,
            prompt=self._prompts(plan, "")[0],
            strategy=_strategies(plan),
            config_hash=config_hash(label_config),
            include_annotated=True,  # it was these very tasks that somebody asked for
        )
        try:
            run = self._ledger.create(spec, tasks)
        except RunExistsError as error:
            run = error.run
            if run.state is RunState.ACTIVE:
                self._ledger.extend(run.id, tasks)
        if run.state is RunState.ACTIVE:
            self._queue.wake(run.id)
        return run

    def get(self, run_id: str) -> Run:
        """A run. Raises ``UnknownRunError``."""
        return self._ledger.get(run_id)

    def progress(self, run_id: str) -> Progress:
        """How far a run is. Raises ``UnknownRunError``."""
        return self._ledger.progress(run_id)

    def records(
        self, run_id: str, state: TaskState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[TaskRecord]:
        """Tasks of a run, by id, beginning behind the id ``after``. Raises ``UnknownRunError``."""
        return self._ledger.records(run_id, state, after, limit)

    def cancel(self, run_id: str) -> Run:
        """Hand out no more tasks of a run; it can be resumed. Raises ``LedgerError``."""
        return self._ledger.cancel(run_id)

    def resume(self, run_id: str) -> Run:
        """Go on with a stopped or cancelled run, or wake an active one.

        Raises:
            RunsError: the project's labeling config is no longer the run's.
            LedgerError: it is finished, or another run of its version is under way.
            LabelStudioError: refused, or not there.
            QueueError: the queue cannot be reached; the run is active and goes on once it can.
        """
        run = self._ledger.get(run_id)
        facts = self._label_studio().project(run.spec.project)
        if config_hash(str(facts.get("label_config") or "")) != run.spec.config_hash:
            raise RunsError(
                f"the labeling config of project {run.spec.project} is no longer that of run {run_id}; start a new "
                "run, which takes what is missing, or change the config back"
            )
        run = self._ledger.resume(run_id)
        self._queue.wake(run_id)
        return run

    def retry(self, run_id: str, states: Collection[TaskState] = frozenset({TaskState.FAILED})) -> int:
        """Do the failed (or skipped) tasks of a run again; how many there are.

        Raises:
            LedgerError: the run is stopped, cancelled or being prepared.
            QueueError: the queue cannot be reached; the tasks are pending and done once it can.
        """
        count = self._ledger.retry(run_id, states)
        if count:
            self._queue.wake(run_id)
        return count

    def _label_studio(self) -> LabelStudioClient:
        if self._client is None:
            raise RunsError(NO_LABEL_STUDIO)
        return self._client

    def _params(self, client: LabelStudioClient, project: int) -> tuple[Any, bool]:
        """The extra params of our connection, or those that ``/setup`` brought; and whether there is any such."""
        try:
            rows = client.connections(project)
        except LabelStudioError as error:
            if error.status in (0, 401, 404):
                raise
            rows = []
        row = our_connection(rows, self._port)
        if row is not None:
            return row.get("extra_params"), True
        known = [one for one in self._known_projects() if one.id == str(project)]
        return (known[0].extra_params, True) if known else (None, False)

    def _prompts(self, plan: Plan, wanted: str) -> tuple[str, list[str]]:
        """The prompts in words, and the labels for which the one that was asked for does not count."""
        found: dict[str, None] = {}
        others: dict[str, None] = {}
        for image in plan.config.images:
            for target in plan.config.targets(image):
                try:
                    text, source = prompt_of(target, plan.params, self._default_prompt, {})
                except PromptError as error:
                    raise RunsError(str(error)) from None
                found[text] = None
                if wanted and text != " ".join(wanted.split()):
                    name = target.label.value if target.label else target.control.name
                    others[f"'{name}' keeps its own prompt {text!r} (from the {source})"] = None
        shown = list(found)[:_SHOWN]
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"{'; '.join(shown)}{more}", list(others)

    def list(self, project: int | None = None, limit: int = 50) -> Sequence[Run]:
        """The newest runs, of one project or of all, newest first."""
        return self._ledger.runs(project, limit)


def _strategies(plan: Plan) -> str:
    return ", ".join(dict.fromkeys(options.strategy for options in plan.options.values()))


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
            found.append(f"{obstacle.text}: {obstacle.remedy}, or use --set-model-version")
    if project.get("evaluate_predictions_automatically"):
        found.append(
            "the project asks its ML backend whenever tasks are listed (evaluate_predictions_automatically), which "
            "makes runs slow: set it to false with PATCH /api/projects/ID"
        )
    return found


def _differences(running: RunSpec, wanted: RunSpec) -> list[str]:
    names = ("view", "limit", "only_missing", "include_annotated", "set_model_version")
    different = [name for name in names if getattr(running, name) != getattr(wanted, name)]
    if not different:
        return []
    return [f"the run under way was made with another {', '.join(different)}; it goes on as it was made"]
