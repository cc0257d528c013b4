"""``int-backend learn --project``: the project's next version, as a run that this process does, or that workers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rich.console import Console

from ml_backend.cli.annotate import DONE, FAILED, run_and_watch
from ml_backend.cli.commands.learn import LearnOptions
from ml_backend.context import AppContext
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.labelstudio.connections import our_connection
from ml_backend.learning.versions import Versions
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.manager import Runs, RunsError, Started
from ml_backend.storage.database import Database


def run_project(options: LearnOptions) -> int:
    """Learn; returns the exit status.

    Raises:
        ValueError, RuntimeError: it could not be started; the message is for people.
    """
    project = options.project or 0
    if options.export is not None or options.tasks or options.all_annotations or options.seed:
        raise ValueError(
            "--project reads tasks, prompts and images from Label Studio: leave out the export, its images, --task, "
            "--all-annotations and --seed"
        )
    settings = options.models.settings({"learn_group": options.group or None, "learn_steps": options.steps})
    console = Console()
    made: list[str] = []

    def begin(context: AppContext, runs: Runs, _stopping: Callable[[], bool]) -> Started:
        if context.client is None:
            raise RunsError("no Label Studio is configured")
        facts = context.client.project(project)
        try:
            row = our_connection(context.client.connections(project), settings.port)
        except LabelStudioError as error:
            if error.status in (0, 401, 404):
                raise
            row = None
        known = next((one for one in context.store.projects() if one.id == str(project)), None)
        params = row.get("extra_params") if row is not None else known.extra_params if known is not None else None
        started = context.trainings(runs.queue).start(project, "the command line", facts=facts, extra_params=params)
        if started.run is not None:
            made.append(started.run.id)
        return started

    bar = Console(stderr=True)
    status = asyncio.run(
        run_and_watch(
            settings,
            begin,
            ("train", f"project {project}"),
            detach=options.detach,
            tell=console,
            bar=bar,
            debug=options.debug,
        )
    )
    if status != DONE or not made:
        return status
    database = Database.of(settings)
    try:
        return _report(Versions(database), Ledger(database), made[0], console)
    finally:
        database.close()


def _report(versions: Versions, ledger: Ledger, run: str, console: Console) -> int:
    version = versions.of_run(run)
    if version is None:  # left to workers
        return DONE
    (record,) = ledger.records(run)
    console.print(record.reason, markup=False, highlight=False, soft_wrap=True)
    project = ledger.get(run).spec.project
    line = f"its figures: int-backend models show --project {project} {version.name}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE if version.accepted else FAILED
