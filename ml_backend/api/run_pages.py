"""Runs as pages: server-rendered, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from int_model.html.environment import page_environment, render
from int_model.html.text import counted, duration
from ml_backend.api.run_actions.form import Form
from ml_backend.runs.triage import grouped
from ml_backend.runs.types import Progress, Run, RunKind, RunState, TaskRecord, TaskState

REFRESH_SECONDS = 4
PAGE = 24
"""Pictures on a page."""

_NAMES = {
    TaskState.DONE: "done",
    TaskState.ABSTAINED: "nothing found",
    TaskState.SKIPPED: "skipped",
    TaskState.FAILED: "failed",
    TaskState.PENDING: "waiting",
    TaskState.LEASED: "in progress",
}
_TONES = {TaskState.DONE: "good", TaskState.ABSTAINED: "warn", TaskState.SKIPPED: "muted", TaskState.FAILED: "bad"}
"""The final states, in the order of the bar, with the colours of the style sheet."""

_RUN_TONES = {
    RunState.PREPARING: "accent",
    RunState.ACTIVE: "accent",
    RunState.FINISHED: "good",
    RunState.STOPPED: "bad",
    RunState.CANCELLED: "",
}


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its progress, as the pages show it."""

    run: Run
    progress: Progress

    @property
    def tone(self) -> str:
        """The colour of the run's state."""
        return _RUN_TONES[self.run.state]

    @property
    def project(self) -> str:
        """The project, and the view if the run has one."""
        spec, view = self.run.spec, self.run.spec.request.view
        return str(spec.project) if view is None else f"{spec.project}, view {view}"

    @property
    def busy(self) -> bool:
        """Whether the run goes on by itself, so that the page should be loaded again."""
        return self.run.state in (RunState.PREPARING, RunState.ACTIVE)

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What a person can do with the run: action and text."""
        state = self.run.state
        offered = [("cancel", "Cancel")] if self.busy else []
        if state in (RunState.STOPPED, RunState.CANCELLED):
            offered.append(("resume", "Resume"))
        if self.count(TaskState.FAILED) and state in (RunState.ACTIVE, RunState.FINISHED):
            offered.append(("retry", "Retry failed images"))
        return offered

    @property
    def can_undo(self) -> bool:
        """Whether predictions of the run can be taken back now."""
        return not self.busy and bool(self.count(TaskState.DONE) + self.count(TaskState.ABSTAINED))

    @property
    def parts(self) -> list[tuple[str, float, str]]:
        """The parts of the progress bar: colour, percent and text."""
        states = ((state, tone, self.count(state)) for state, tone in _TONES.items())
        total = self.progress.total
        return [(tone, 100 * count / total, f"{count} {_NAMES[state]}") for state, tone, count in states if count]

    @property
    def finished(self) -> str:
        """The progress in words."""
        if self.run.spec.kind is RunKind.TRAIN:
            return "trained and judged" if self.progress.left == 0 else self.run.stage or "waiting for its turn"
        total = self.progress.total
        return f"{total - self.progress.left} of {counted(total, 'image')} finished"

    @property
    def stall(self) -> str:
        """What a silent worker holds, and until when; "" where nothing is."""
        silent, free_in = self.progress.silent, self.progress.free_in
        if not silent or free_in is None or self.run.state is not RunState.ACTIVE:
            return ""
        when = f"in {duration(free_in)}" if free_in >= 1 else "now"
        return f"{counted(silent, 'image')} held by a silent worker, free {when}"

    @property
    def throughput(self) -> str:
        """How fast the run is and how much is left, or how long it took."""
        run, progress = self.run, self.progress
        if run.state is RunState.PREPARING:
            return "listing its tasks"
        if run.finished_at is not None:
            return f"took {duration((run.finished_at - run.created_at).total_seconds())}"
        if run.spec.kind is RunKind.TRAIN:
            return ""
        if run.state is RunState.ACTIVE and progress.rate:
            return f"{progress.rate:.2f} images/s, {duration(progress.eta_seconds)} left"
        return f"{progress.left} left" if progress.left or run.state is RunState.ACTIVE else ""

    def count(self, state: TaskState) -> int:
        """The run's tasks in that state."""
        return self.progress.counts.get(state, 0)


@dataclass(frozen=True, slots=True)
class Notice:
    """What stands above the page: ``bad`` for what keeps runs from going on."""

    text: str
    bad: bool = False


def list_page(runs: Sequence[RunView], notices: Sequence[Notice], project: int | None, form: Form | None) -> str:
    """The page ``/runs``.

    Args:
        runs: the newest.
        notices: what stands above.
        project: the one whose runs these are, or None for all.
        form: of a new run; None where no run can be begun. While it is what the page is for, the page stays as it is.
    """
    busy = any(view.busy for view in runs) and not (form and form.wanted)
    return _render("runs.html.j2", "", runs=runs, notices=notices, project=project, form=form, busy=busy)


def run_page(
    view: RunView,
    failures: Sequence[TaskRecord],
    shown: Sequence[TaskRecord],
    notices: Sequence[Notice],
    *,
    state: TaskState | None,
    after: int,
    pictures: bool,
    by_doubt: bool = False,
    tasks_address: str = "",
) -> str:
    """The page of one run.

    Args:
        view: the run.
        failures: the first failed tasks.
        shown: the tasks below them, one more than `PAGE` if there are more.
        notices: what stands above.
        state: whose tasks are shown, None for all.
        after: the id behind which they begin; in the order of doubt, how many are left out.
        pictures: whether pictures of tasks can be made.
        by_doubt: whether the lowest scores come first.
        tasks_address: of a task in Label Studio: a format of project and task; "" for no links.
    """
    own = f"{view.run.id}?state={{}}".format
    states = [(_NAMES[entry], own(entry.value), state is entry, view.count(entry)) for entry in _TONES]
    if view.count(TaskState.DONE) + view.count(TaskState.ABSTAINED):
        states.insert(0, ("by doubt", f"{view.run.id}?order=doubt", by_doubt, view.progress.total))
    following = after + PAGE if by_doubt else shown[PAGE - 1].task if len(shown) > PAGE else 0
    return _render(
        "run.html.j2",
        "../",
        view=view,
        failures=failures,
        reasons=grouped(failures),
        shown=shown[:PAGE],
        more=following if len(shown) > PAGE else None,
        notices=notices,
        state=state,
        tabs=[("all", view.run.id, state is None and not by_doubt, None), *(tab for tab in states if tab[3])],
        by_doubt=by_doubt,
        address=lambda task: tasks_address.format(view.run.spec.project, task),
        after=after,
        pictures=pictures,
        busy=view.busy,
    )


def undo_page(run: Run, delete: int, kept: int, gone: int) -> str:
    """The page that asks before a run is taken back.

    Args:
        run: the run.
        delete: predictions that will be deleted.
        kept: predictions that stay, as people used them.
        gone: predictions that cannot be found any more.
    """
    return _render("undo.html.j2", "../../", run=run, delete=delete, kept=kept, gone=gone, busy=False)


def error_page(status: int, text: str, remedy: str, root: str) -> str:
    """A page that says what is wrong; ``root`` leads up to the backend's address: "" for ``/runs`` itself."""
    return _render("error.html.j2", root, status=status, text=text, remedy=remedy, busy=False)


def no_picture(text: str) -> bytes:
    """An SVG that stands in for a picture; ``text`` is its title."""
    return page_environment("ml_backend.api").get_template("nothing.svg.j2").render(text=text).encode()


def _render(template: str, root: str, **values: Any) -> str:
    names = {"names": _NAMES, "tones": _TONES, "TaskState": TaskState}
    return render("ml_backend.api", template, root=root, refresh=REFRESH_SECONDS, **names, **values)
