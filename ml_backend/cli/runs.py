"""``int-backend runs``: look at batch runs and steer them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ml_backend.cli.options import MISUSED, CommandOptions, Debug, ModelArguments, add_command, complain, plain_errors

if TYPE_CHECKING:
    from ml_backend.runs.ledger import Ledger
    from ml_backend.runs.undo import Tally, Undoing
    from ml_backend.runs.verify import Compared

app = typer.Typer(no_args_is_help=True, help="Look at batch runs, cancel them, go on with them, take them back.")

Found = TypeVar("Found")
_SHOWN = 20
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, as in `runs list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Detach = Annotated[bool, typer.Option("--detach", help="With REDIS_URL: do not watch, return at once.")]


class State(StrEnum):
    """The values of ``--state``; they are those of ``TaskState``."""

    pending = "pending"
    leased = "leased"
    done = "done"
    abstained = "abstained"
    failed = "failed"
    skipped = "skipped"


@app.command("list")
def list_runs(
    project: Annotated[int | None, typer.Option(help="Only runs of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most runs.")] = 20,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """The newest runs and how far they are."""
    with plain_errors(debug=debug):
        rows = _of_ledger(lambda ledger: [(run, ledger.progress(run.id)) for run in ledger.runs(project, limit)])
        if as_json:
            from ml_backend.runs.plain import run_json

            print_json([run_json(run, progress) for run, progress in rows])
            return
        from rich.table import Table

        from ml_backend.cli.watch import counts

        table = Table("run", "kind", "project", "state", "tasks", "made", "prompt", "version")
        for run, progress in rows:
            made = f"{run.created_at:%Y-%m-%d %H:%M}"
            table.add_row(
                run.id,
                run.spec.kind.value,
                str(run.spec.project),
                run.state.value,
                counts(progress),
                made,
                run.spec.prompt,
                run.spec.model_version,
            )
        console().print(table)


@app.command()
def show(
    run_id: RunId,
    state: Annotated[State | None, typer.Option(help="List the tasks in this state. (default: failed ones)")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tasks that are listed.")] = 100,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One run: what it does, how far it is, and its failed tasks with the reasons."""
    with plain_errors(debug=debug):
        from ml_backend.runs.types import TaskState

        wanted = TaskState(state.value if state else "failed")
        run, progress, records = _of_ledger(
            lambda ledger: (
                ledger.get(run_id),
                ledger.progress(run_id),
                ledger.records(run_id, wanted, limit=limit),
            )
        )
        if as_json:
            from ml_backend.runs.plain import record_json, run_json

            print_json({**run_json(run, progress), "tasks": [record_json(record) for record in records]})
            return
        from ml_backend.cli.watch import counts, stall, throughput

        spec, request, out = run.spec, run.spec.request, console()
        taken = f"view {request.view}" if request.view is not None else "all tasks"
        lines = [
            f"run {run.id} of project {spec.project}: {run.state.value}" + (f" ({run.why})" if run.why else ""),
            f"  kind        {spec.kind.value}",
            f"  looks for   {spec.prompt}",
            f"  version     {spec.model_version}",
            f"  takes       {taken}" + (f", at most {request.limit}" if request.limit else ""),
            f"  tasks       {counts(progress)}",
            f"  throughput  {throughput(progress) or '-'}; {progress.workers} workers",
        ]
        if held := stall(progress):
            lines.append(f"  stalled     {held}")
        for record in records:
            score = "" if record.score is None else f", score {record.score:.3f}"
            reason = f": {record.reason}" if record.reason else ""
            lines.append(f"  task {record.task} {record.state.value}{score}{reason}")
        for line in lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def cancel(run_id: RunId, debug: Debug = False) -> None:
    """Hand out no more tasks of a run; what is at work is finished or given back. It can be resumed."""
    with plain_errors(debug=debug):
        _note("cancel", run_id)
        run = _of_ledger(lambda ledger: ledger.cancel(run_id))
        typer.echo(f"run {run.id} is {run.state.value}; go on with it: int-backend runs resume {run.id}")


@app.command()
def undo(
    run_id: RunId,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: Debug = False,
) -> None:
    """Delete the predictions that a run made, except those that an annotation came from. It can be repeated."""
    with plain_errors(debug=debug), _opened_undoing() as undoing:
        counted = undoing.count(run_id)
        typer.echo(f"run {run_id}: {counted.deleted} predictions to delete; {_left(counted)}")
        if dry_run or not counted.deleted + counted.gone:
            return
        if not yes and not typer.confirm("Delete them?"):
            raise typer.Exit(MISUSED)
        _note("undo", run_id)
        done = undoing.undo(run_id)
        typer.echo(
            f"{done.deleted} deleted; {_left(done)}; do them again with: int-backend runs retry {run_id} --skipped"
        )


def _note(action: str, run_id: str) -> None:
    """Write down who is about to do that."""
    from ml_backend.settings import load_settings
    from ml_backend.storage.audit import Audit, operator
    from ml_backend.storage.database import Database

    database = Database.of(load_settings({}))
    try:
        Audit(database).note(*operator(), action, f"run {run_id}")
    finally:
        database.close()


def _left(tally: Tally) -> str:
    return f"{tally.kept} stay, as people used them; {tally.gone} gone already"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOptions(CommandOptions):
    """What ``int-backend runs resume`` can be asked for."""

    run_id: RunId
    detach: Detach = False
    models: ModelArguments = field(default_factory=ModelArguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOptions(ResumeOptions):
    """What ``int-backend runs retry`` can be asked for."""

    skipped: Annotated[bool, typer.Option("--skipped", help="Also the tasks that were skipped.")] = False


def resume(options: ResumeOptions) -> int:
    """Go on with a run that was interrupted, stopped or cancelled, or whose process died.

    It needs the models and options that it was made with; what is not given comes from the environment.
    """
    return _again(options, frozenset())


def retry(options: RetryOptions) -> int:
    """Do the failed tasks of a run again, with the models and options that it was made with."""
    return _again(options, frozenset({"failed", "skipped"} if options.skipped else {"failed"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(ResumeOptions):
    """What ``int-backend runs verify`` can be asked for."""

    push: Annotated[
        bool, typer.Option("--push", help="Do what is missing again, and push it; failed tasks of the run as well.")
    ] = False


def verify(options: VerifyOptions) -> int:
    """Ask Label Studio whether it has the predictions that the run pushed. Status 1 if some are missing.

    They are after its database was restored from a copy, say. Second predictions of the run's version are removed.
    """
    from ml_backend.context import label_studio_client
    from ml_backend.runs.ledger import Ledger
    from ml_backend.runs.verify import Verifying
    from ml_backend.storage.audit import Audit, operator
    from ml_backend.storage.database import Database

    settings = options.models.settings()
    client = label_studio_client(settings)
    if client is None:
        raise ValueError("verifying a run needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    database = Database.of(settings)
    try:
        with client:
            verifying = Verifying(client, Ledger(database), database)
            found = verifying.compare(options.run_id)
            if found.doubled or (options.push and found.missing):
                pushed = len(found.missing) if options.push else 0
                told = f"{len(found.doubled)} second predictions removed, {pushed} pushed again"
                Audit(database).note(*operator(), "verify", f"run {options.run_id}: {told}")
            for line in _compared(options.run_id, found, verifying.remove_doubles(options.run_id, found.doubled)):
                typer.echo(line)
            if not found.missing:
                return 0
            if not options.push:
                typer.echo(f"push them again: int-backend runs verify {options.run_id} --push")
                return 1
            verifying.mark_missing(options.run_id, found.missing)
    finally:
        database.close()
    return _again(options, frozenset({"failed"}))


def _compared(run_id: str, found: Compared, removed: int) -> Iterator[str]:
    yield f"run {run_id}: {found.there} predictions are in Label Studio, {len(found.missing)} are missing"
    if found.missing:
        more = ", ..." if len(found.missing) > _SHOWN else ""
        yield f"  missing from tasks {', '.join(map(str, found.missing[:_SHOWN]))}{more}"
    if removed:
        yield f"  {removed} second predictions were removed"
    if found.deleted:
        yield f"  {found.deleted} tasks were deleted"


def _again(options: ResumeOptions, states: frozenset[str]) -> int:
    from rich.console import Console

    from ml_backend.cli.annotate import run_again
    from ml_backend.runs.types import TaskState

    return run_again(
        options.models.settings(),
        options.run_id,
        retry=frozenset(TaskState(state) for state in states),
        detach=options.detach,
        tell=console(),
        bar=Console(stderr=True),
        debug=options.debug,
    )


add_command(app, resume)
add_command(app, retry)
add_command(app, verify)


def console() -> Any:
    """Stdout; as wide as needed where it is no terminal, so that nothing is cut off in a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _of_ledger(wanted: Callable[[Ledger], Found]) -> Found:
    """What the ledger says; no Label Studio, no models, no queue. A database that is away is waited for."""
    from ml_backend.cli.patience import look
    from ml_backend.runs.ledger import Ledger
    from ml_backend.settings import load_settings
    from ml_backend.storage.database import Database

    def read() -> Found:
        database = Database.of(load_settings({}))
        try:
            return wanted(Ledger(database))
        finally:
            database.close()

    return look(read, complain)


@contextmanager
def _opened_undoing() -> Iterator[Undoing]:
    from ml_backend.context import label_studio_client
    from ml_backend.runs.ledger import Ledger
    from ml_backend.runs.undo import Undoing
    from ml_backend.settings import load_settings
    from ml_backend.storage.database import Database

    settings = load_settings({})
    client = label_studio_client(settings)
    if client is None:
        raise ValueError("undoing a run needs LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    database = Database.of(settings)
    try:
        with client:
            yield Undoing(client, Ledger(database), database)
    finally:
        database.close()


def print_json(content: Any) -> None:
    """Print plain data to stdout."""
    typer.echo(json.dumps(content, indent=2))
