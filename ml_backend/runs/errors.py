"""What the ledger refuses, and what ends work on a run."""

from __future__ import annotations

from ml_backend.runs.types import Run


class LedgerError(RuntimeError):
    """The run is not in a state for that; the message names the state and the remedy."""


class UnknownRunError(LedgerError):
    """There is no run of that id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}; `int-backend runs list` shows all")


class RunExistsError(LedgerError):
    """A run of this model version is under way on this project already: ``run``."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} of {run.spec.model_version} is under way on project {run.spec.project} already "
            f"({run.state.value}); join it, or cancel it first"
        )
        self.run = run


class WorkEndedError(Exception):
    """Waiting is of no use any more: the run is over, or the process is told to stop."""


class RunStopError(Exception):
    """The run cannot go on; the message says why and what to do."""
