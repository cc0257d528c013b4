"""Runs as JSON and as pages: server-rendered, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ml_backend.runs.types import Progress, Run, RunState, TaskRecord, TaskState

REFRESH_SECONDS = 4
PAGE = 24
"""Pictures on a page."""

_FINAL = (TaskState.DONE, TaskState.ABSTAINED, TaskState.SKIPPED, TaskState.FAILED)
_NAMES = {
    TaskState.DONE: "done",
    TaskState.ABSTAINED: "nothing found",
    TaskState.SKIPPED: "left alone",
    TaskState.FAILED: "failed",
    TaskState.PENDING: "waiting",
    TaskState.LEASED: "at work",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A run with its progress, as it is shown."""

    run: Run
    progress: Progress


@dataclass(frozen=True, slots=True)
class Notice:
    """What stands above the page: ``bad`` for what keeps runs from going on."""

    text: str
    bad: bool = False


def run_json(seen: Seen) -> dict[str, Any]:
    """A run as plain data; times in ISO 8601, UTC."""
    run, spec, progress = seen.run, seen.run.spec, seen.progress
    return {
        "id": run.id,
        "project": spec.project,
        "view": spec.view,
        "state": run.state.value,
        "why": run.why,
        "prompt": spec.prompt,
        "strategy": spec.strategy,
        "model_version": spec.model_version,
        "only_missing": spec.only_missing,
        "include_annotated": spec.include_annotated,
        "limit": spec.limit,
        "created_at": _iso(run.created_at),
        "finished_at": _iso(run.finished_at),
        "total": progress.total,
        "left": progress.left,
        "counts": {state.value: progress.counts.get(state, 0) for state in TaskState},
        "images_per_second": progress.rate,
        "eta_seconds": progress.eta_seconds,
        "workers": progress.workers,
    }


def record_json(record: TaskRecord) -> dict[str, Any]:
    """A task of a run as plain data."""
    return {
        "task": record.task,
        "state": record.state.value,
        "attempts": record.attempts,
        "score": record.score,
        "reason": record.reason,
        "seconds": record.seconds,
        "prediction": record.prediction,
    }


def list_page(runs: Sequence[Seen], notices: Sequence[Notice], *, can_start: bool) -> str:
    """The page ``/runs``."""
    busy = any(_moves(seen.run) for seen in runs)
    return _render("runs.html.j2", runs=runs, notices=notices, can_start=can_start, busy=busy)


def run_page(
    seen: Seen,
    failures: Sequence[TaskRecord],
    shown: Sequence[TaskRecord],
    notices: Sequence[Notice],
    *,
    state: TaskState | None,
    after: int,
    pictures: bool,
) -> str:
    """The page of one run.

    Args:
        seen: the run.
        failures: the first failed tasks.
        shown: the tasks below them, one more than `PAGE` if there are more.
        notices: what stands above.
        state: whose tasks are shown, None for all.
        after: the id behind which they begin.
        pictures: whether pictures of tasks can be made.
    """
    states = [entry for entry in _FINAL if seen.progress.counts.get(entry, 0)]
    return _render(
        "run.html.j2",
        seen=seen,
        failures=failures,
        shown=shown[:PAGE],
        more=shown[PAGE - 1].task if len(shown) > PAGE else None,
        notices=notices,
        state=state,
        states=states,
        after=after,
        pictures=pictures,
        busy=_moves(seen.run),
    )


def error_page(status: int, text: str, cure: str) -> str:
    """A page that says what is wrong."""
    return _render("error.html.j2", status=status, text=text, cure=cure, busy=False)


def no_picture(text: str) -> bytes:
    """An SVG that stands in for a picture; ``text`` is its title."""
    return _environment().get_template("nothing.svg.j2").render(text=text).encode()


def duration(seconds: float | None) -> str:
    """Seconds for people, e.g. ``3 min``; "" for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 90 * 60:
        return f"{round(whole / 60)} min"
    if whole < 48 * 3600:
        return f"{whole / 3600:.1f} h"
    return f"{whole / 86400:.1f} days"


def _moves(run: Run) -> bool:
    return run.state in (RunState.PREPARING, RunState.ACTIVE)


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _when(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _share(count: int, total: int) -> str:
    """Width of a part of the bar in percent, with a dot whatever the locale."""
    return f"{100 * count / total:.3f}" if total else "0"


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(names=_NAMES, final=_FINAL, refresh=REFRESH_SECONDS, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ml_backend.api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (resources.files("ml_backend.api") / "templates" / "runs.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 - a file of this package
    environment.filters |= {"duration": duration, "when": _when}
    environment.globals |= {"share": _share, "RunState": RunState, "TaskState": TaskState}
    return environment
