"""A run on the terminal: a live bar, or a line now and then where there is no terminal; and its result."""

from __future__ import annotations

import logging

from rich.console import Console

from ml_backend.cli.progress import ProgressBar, say
from ml_backend.runs.types import Progress as RunProgress
from ml_backend.runs.types import Run, RunState, TaskRecord, TaskState

_LISTED = 20


class RunBar(ProgressBar):
    """Shows a run's progress on a console, as a context manager."""

    def __init__(self, console: Console, run_id: str) -> None:
        super().__init__(console, f"run {run_id}", note=True, line_seconds=10.0)
        self._run_id = run_id

    def show_run(self, progress: RunProgress, note: str = "") -> None:
        """Update; ``note`` says what is waited for, or is ""."""
        text = f"{throughput(progress)}  {note}".rstrip()
        finished = progress.total - progress.left
        self.show(finished, progress.total, f"run {self._run_id}", text)
        self.line(lambda: f"run {self._run_id}: {finished} of {progress.total}  {text}")


class ConsoleLog(logging.Handler):
    """Log records above the bar, one line each."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self._console, self.format(record))


def throughput(progress: RunProgress) -> str:
    """Images per second, time left, what abstained and failed: ``1.9 images/s, 0:02:10 left, 3 abstained``."""
    parts = []
    if progress.rate:
        parts.append(f"{progress.rate:.2g} images/s" if progress.rate < 10 else f"{progress.rate:.0f} images/s")
    if progress.left and progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    for state in (TaskState.ABSTAINED, TaskState.FAILED, TaskState.SKIPPED):
        if progress.counts.get(state):
            parts.append(f"{progress.counts[state]} {state.value}")
    return ", ".join(parts)


def stall(progress: RunProgress) -> str:
    """What silent workers hold: ``16 tasks are held by a silent worker, free in 0:01:20``; "" where they hold none."""
    if not progress.silent or progress.free_in is None:
        return ""
    return f"{progress.silent} tasks are held by a silent worker, free in {duration(progress.free_in)}"


def duration(seconds: float) -> str:
    """``1:02:03``."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def counts(progress: RunProgress) -> str:
    """``295 done, 5 failed``: every state that has tasks."""
    return ", ".join(f"{progress.counts[s]} {s.value}" for s in TaskState if progress.counts.get(s)) or "no tasks"


def summary(run: Run, progress: RunProgress, failed: list[TaskRecord]) -> list[str]:
    """What a run came to, and what to do next; ``failed`` are its first failed tasks."""
    ended = f" {run.state.value}" if run.state is not RunState.ACTIVE else " goes on"
    said = [f"run {run.id}{ended}: {counts(progress)}" + (f" ({run.why})" if run.why else "")]
    for record in failed[:_LISTED]:
        said.append(f"  task {record.task}: {record.reason}")
    more = progress.counts.get(TaskState.FAILED, 0)
    if more > _LISTED:
        said.append(f"  and {more - _LISTED} more: int-backend runs show {run.id} --state failed")
    if more and run.state is RunState.FINISHED:
        said.append(f"try the failed ones again: int-backend runs retry {run.id}")
    if run.state in (RunState.STOPPED, RunState.CANCELLED) and progress.left:
        said.append(f"go on with it: int-backend runs resume {run.id}")
    return said
