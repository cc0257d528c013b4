"""The demo: a Label Studio, our backend, a project per task prompt with sample scenes, and their predictions."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from int_model.html.text import counted
from ml_backend.demo.backend import start_backend
from ml_backend.demo.client import TIMEOUT, DemoClient, sign_in
from ml_backend.demo.outcomes import Outcome, judged, outcome_of
from ml_backend.demo.processes import (
    Child,
    DemoError,
    Interrupted,
    free_port,
    group_members,
    signals_raise,
    signals_wait,
)
from ml_backend.demo.projects import ProjectPlan, plan_projects
from ml_backend.demo.samples import Sample, by_task, load_samples, samples_folder
from ml_backend.demo.server import LabelStudioServer, ensure_environment
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.connections import prelabel_obstacles

EMAIL = "demo@example.com"
_RETRIEVE_PAUSE_SECONDS = 2.0
_LOG_WIDTH = 160  # of the table where there is no terminal to fit it to


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo may be told.

    Attributes:
        check: verify and stop, in place of staying.
        prepare: only make Label Studio's virtual environment.
        folder: databases, uploads, logs; emptied at every start.
        label_studio: the virtual environment of Label Studio, made where missing and kept.
        samples: the folder with ``samples.json``; None for the bundled one.
        profile: the model profile of the backend.
        label_studio_port: 0 for a free one.
        backend_port: 0 for a free one.
        timeout: seconds that all predictions together may take.
    """

    check: bool = False
    prepare: bool = False
    folder: Path = Path(".demo")
    label_studio: Path = Path(".venv-label-studio")
    samples: Path | None = None
    profile: str = "nano"
    label_studio_port: int = 0
    backend_port: int = 0
    timeout: float = 900.0


class Demo:
    """One demo from start to stop; `run` returns the exit status."""

    def __init__(self, options: DemoOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.children: list[Child] = []

    def run(self) -> int:
        """Run it; 0 when every sample is annotated (or a person ended a running demo), else 1."""
        options = self.options
        folder, venv = options.folder.resolve(), options.label_studio.resolve()
        logs = folder / "logs"
        if options.prepare:
            ensure_environment(venv, log=logs / "install.log", tell=self._tell)
            return 0
        with ExitStack() as stack:
            stack.enter_context(signals_raise())
            stack.enter_context(_only_one(folder))
            stack.callback(self._stop)
            samples = load_samples(options.samples or samples_folder())
            program = ensure_environment(venv, log=logs / "install.log", tell=self._tell)
            server = self._start_label_studio(program, folder, logs)
            token = sign_in(server.url, server.email, server.password)
            client = stack.enter_context(DemoClient(server.url, token, timeout=TIMEOUT))
            backend = self._start_backend(server, token, folder, logs)
            plans = plan_projects(by_task(samples))
            tasks = [self._create(client, plan, backend) for plan in plans]
            outcomes = self._annotate(client, plans, tasks)
            self.console.print(_table(plans, outcomes))
            self._tell_misses(outcomes)
            bad = [outcome for outcome in outcomes if not outcome.fine]
            if bad:
                self._tell(f"{len(bad)} of {len(outcomes)} tasks lack a prediction with regions; see {logs}")
            versions = {outcome.project: outcome.model_version for outcome in outcomes if outcome.answered}
            views = {project: client.show_by_doubt(project, versions.get(project, "")) for project, _ in tasks}
            if options.check:
                return 1 if bad else 0
            self._stay(server, backend, _first(server.url, views, outcomes), len(plans))
            return 0

    def _tell(self, text: str) -> None:
        self.console.print(f"[bold]demo[/bold]  {text}", highlight=False, soft_wrap=True)

    def _start_label_studio(self, program: Path, folder: Path, logs: Path) -> LabelStudioServer:
        self._tell("starting Label Studio")
        port = self.options.label_studio_port or free_port()
        data = folder / "label-studio"
        password = secrets.token_urlsafe(12)
        server = LabelStudioServer.start(
            program,
            folder=data,
            log=logs / "label-studio.log",
            port=port,
            email=EMAIL,
            password=password,
            adopt=self.children.append,
        )
        self._tell(f"Label Studio is up at {server.url}")
        return server

    def _start_backend(self, server: LabelStudioServer, token: str, folder: Path, logs: Path) -> str:
        self._tell(f"starting the backend with the profile {self.options.profile}")
        port = self.options.backend_port or free_port()
        _, url = start_backend(
            port=port,
            profile=self.options.profile,
            label_studio_url=server.url,
            token=token,
            folder=folder / "backend",
            log=logs / "backend.log",
            adopt=self.children.append,
        )
        self._tell(f"the backend is up at {url}")
        return url

    def _create(self, client: DemoClient, plan: ProjectPlan, backend: str) -> tuple[int, dict[str, int]]:
        project = client.create_project(plan.title, plan.label_config, description=f"Task prompt: {plan.task}")
        tasks = client.upload(project, [sample.image for sample in plan.samples])
        row = client.connect(project, backend, extra_params=plan.extra_params)
        if row["state"] != "CO":
            raise DemoError(f"Label Studio could not connect the backend: {row.get('error_message')}")
        for obstacle in prelabel_obstacles(client.project(project), str(row["model_version"]), str(row["title"])):
            raise DemoError(f"{obstacle.text}: {obstacle.remedy}")
        self._tell(f'project {project} "{plan.title}": {len(tasks)} images, {plan.kind}, backend connected')
        return project, tasks

    def _annotate(
        self, client: DemoClient, plans: list[ProjectPlan], tasks: list[tuple[int, dict[str, int]]]
    ) -> list[Outcome]:
        deadline = time.monotonic() + self.options.timeout
        started = time.monotonic()
        reported = -1
        while True:
            outcomes = self._look(client, plans, tasks)
            done = sum(outcome.answered for outcome in outcomes)
            if done != reported:
                self._tell(f"{done} of {len(outcomes)} images annotated ({time.monotonic() - started:.0f} s)")
                reported = done
            if done == len(outcomes) or time.monotonic() > deadline:
                return self._look(client, plans, tasks, judged)
            for project in {outcome.project: None for outcome in outcomes if not outcome.answered}:
                self._check_alive()
                client.retrieve_predictions(project)
            time.sleep(_RETRIEVE_PAUSE_SECONDS)

    def _look(
        self,
        client: DemoClient,
        plans: list[ProjectPlan],
        tasks: list[tuple[int, dict[str, int]]],
        read: Callable[[int, int, Sample, list[dict[str, Any]]], Outcome] = outcome_of,
    ) -> list[Outcome]:
        return [
            read(project, ids[sample.image.name], sample, client.predictions(ids[sample.image.name]))
            for plan, (project, ids) in zip(plans, tasks, strict=True)
            for sample in plan.samples
        ]

    def _check_alive(self) -> None:
        for child in self.children:
            if child.process.poll() is not None:
                raise DemoError(f"{child.name} ended with code {child.process.returncode}; see {child.log}")

    def _tell_misses(self, outcomes: list[Outcome]) -> None:
        missed = [outcome for outcome in outcomes if outcome.miss]
        for one in missed:
            self._tell(f"task {one.task}, {one.sample.image.name}: {one.miss}")
        if missed:
            self._tell("these are for annotators: the lowest scores come first in the view By doubt")

    def _stay(self, server: LabelStudioServer, backend: str, first: str, projects: int) -> None:
        each = "each with the view By doubt: the lowest scores first"
        lines = (
            ("begin here", f"[bold]{first}[/bold]", "the most doubtful image, pre-filled: correct it, then Submit"),
            ("login", server.email, ""),
            ("password", server.password, ""),
            ("Label Studio", server.url, f"{counted(projects, 'project')}, {each}"),
            ("workbench", f"{backend}/projects", "try prompts, run, review, undo"),
            ("backend", backend, ""),
            ("logs", str(self.options.folder / "logs"), ""),
        )
        for name, value, about in lines:
            self.console.print(f"  {name:13} {value}{f'  ({about})' if about else ''}", highlight=False, soft_wrap=True)
        self.console.print("\n  Ctrl-C stops everything; the next start begins anew.\n", highlight=False)
        try:
            while True:
                self._check_alive()
                time.sleep(1.0)
        except Interrupted:
            self._tell("stopping")

    def _stop(self) -> None:
        with signals_wait():
            for child in reversed(self.children):
                child.stop()
        left = [pid for child in self.children for pid in group_members(child.process.pid)]
        if left:
            raise DemoError(f"processes {left} did not end")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock and empty it; a second demo in the same folder is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DemoError(f"another demo runs in {folder}: stop it or name another folder") from error
        for name in ("label-studio", "backend", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        yield


def _table(plans: list[ProjectPlan], outcomes: list[Outcome]) -> Table:
    kinds = {sample.image: plan.kind for plan in plans for sample in plan.samples}
    table = Table(title="Predictions in Label Studio")
    for column in ("project", "task", "image", "prompt", "tag", "regions", "score", "IoU", "model version", ""):
        numbers = ("project", "task", "regions", "score", "IoU")
        table.add_column(column, justify="right" if column in numbers else "left")
    for outcome in outcomes:
        sample = outcome.sample
        verdict = "[green]ok[/green]" if outcome.fine else "[red]missing[/red]"
        score = "" if outcome.score is None else f"{outcome.score:.2f}"
        place = (str(outcome.project), str(outcome.task), sample.image.name, sample.task, kinds[sample.image])
        found = f"{outcome.regions} (none expected)" if sample.empty else str(outcome.regions)
        overlap = "" if outcome.iou is None else f"{outcome.iou:.2f}"
        table.add_row(*place, found, score, overlap, outcome.model_version, verdict)
    return table


def _first(url: str, views: dict[int, int], outcomes: list[Outcome]) -> str:
    """The address of the most doubtful task that has something to correct, in its project's view by doubt."""
    drawn = [one for one in outcomes if one.regions] or outcomes
    one = min(drawn, key=lambda outcome: (1.0 if outcome.score is None else outcome.score, outcome.task))
    return f"{url}/projects/{one.project}/data?tab={views[one.project]}&task={one.task}"


def main(options: DemoOptions) -> int:
    """Run the demo and return its exit status: 0 fine, 1 not, 128 + N when signal N ended a check.

    Nothing that it started runs on after it, whichever way it ends.
    """
    out = Console()
    if not out.is_terminal:
        out.width = max(out.width, _LOG_WIDTH)
    try:
        return Demo(options, out).run()
    except (DemoError, LabelStudioError) as error:
        out.print(f"[bold red]demo failed:[/bold red] {error}", highlight=False, markup=True, soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        out.print(f"stopped by {signal.Signals(interrupted.number).name}")
        return 128 + interrupted.number
