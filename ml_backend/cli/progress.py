"""How a long command shows its progress: a bar on a terminal, else a line now and then; messages in plain text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line whatever is in it: no markup, no wrapping, ``?`` for what cannot be printed."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    console.print(printable, markup=False, highlight=False, soft_wrap=True, style=style)


class ProgressBar:
    """One bar. Use as a context manager; it vanishes in the end.

    Args:
        console: where it is shown, if that is a terminal.
        text: what is going on, left of the bar.
        total: what the bar counts to; None while that is not known.
        done: how much of it is done already.
        note: whether `show` says how fast it goes, in place of the bar's own times.
        line_seconds: least time between two lines of `line`.
    """

    def __init__(
        self,
        console: Console,
        text: str,
        total: int | None = None,
        done: int = 0,
        *,
        note: bool = False,
        line_seconds: float = 30.0,
    ) -> None:
        times = () if note else (TimeElapsedColumn(), TimeRemainingColumn())
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *times,
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._row = self._bar.add_task(text, total=total, completed=done, note="")
        self._done, self._batch = done, 0
        self._line_seconds, self._said = line_seconds, 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def loading(self, role: str, _done: int, _total: int) -> None:
        """The models of a role are being loaded; for ``load_suite``."""
        self._bar.update(self._row, description=f"loading {role}")

    def begun(self, batch: Sequence[Any]) -> None:
        """A micro-batch is at work; for ``run`` of ``int_model.runner``."""
        self._batch = len(batch)

    def stage(self, done: int, total: int, name: str) -> None:
        """How far the micro-batch is; for strategies. A little of the bar is left for writing results."""
        within = 0.9 * self._batch * done / max(1, total)
        self._bar.update(self._row, completed=self._done + within, description=name)

    def advance(self, text: str | None = None) -> None:
        """One more is done."""
        self._done += 1
        shown = max(self._bar.tasks[self._row].completed, self._done)
        self._bar.update(self._row, completed=shown, description=text)

    def show(self, done: int, total: int | None, text: str, note: str = "") -> None:
        """So much of ``total`` is done."""
        self._done = done
        self._bar.update(self._row, completed=done, total=total, description=text, note=note)

    def line(self, text: Callable[[], str], *, last: bool = False) -> None:
        """Say something for logs where there is no bar, not too often, but if it is the last."""
        if self.console.is_terminal or (time.monotonic() - self._said < self._line_seconds and not last):
            return
        self._said = time.monotonic()
        say(self.console, text())
