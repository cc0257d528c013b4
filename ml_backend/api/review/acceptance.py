"""Predictions of a run become annotations by their score alone: on request only, marked, never where a person was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.labelstudio.annotation_events import mark
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.rows import key_of
from ml_backend.runs.types import Run, RunKind, RunState
from ml_backend.storage.reviews import Reviews

_PAGE = 20
"""Tasks per request: they come with their whole results."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """How many annotations are (or would be) made, and how many tasks are left alone.

    Attributes:
        made: annotations.
        people: left alone, as a person annotated, skipped or began them.
        gone: left alone, as their task or the run's prediction is gone or empty.
    """

    made: int = 0
    people: int = 0
    gone: int = 0


class Acceptance:
    """Accepts predictions of runs by their scores. Blocking.

    Args:
        client: Label Studio.
        ledger: where the runs are.
        reviews: images that look wrong or were skipped are left out.
    """

    def __init__(self, client: LabelStudioClient, ledger: Ledger, reviews: Reviews) -> None:
        self._client = client
        self._ledger = ledger
        self._reviews = reviews

    def count(self, run_id: str, least: float) -> Accepted:
        """What accepting would do now. Raises like `accept`."""
        return self._go(self._run(run_id, least), least, make=False)

    def accept(self, run_id: str, least: float) -> Accepted:
        """Make annotations of the predictions with at least that score. It can be repeated, and goes on where it ended.

        Raises:
            UnknownRunError: there is no such run.
            LedgerError: the run is under way, or trains.
            ValueError: ``least`` is not in 0..1.
            LabelStudioError: Label Studio refuses, or is away; what was made by then stays.
        """
        return self._go(self._run(run_id, least), least, make=True)

    def _run(self, run_id: str, least: float) -> Run:
        if not (math.isfinite(least) and 0 <= least <= 1):
            raise ValueError("the least score needs to be a number from 0 to 1")
        run = self._ledger.get(run_id)
        if run.spec.kind is not RunKind.PREDICT:
            raise LedgerError(f"run {run_id} trains; it has no predictions to accept")
        if run.state in (RunState.PREPARING, RunState.ACTIVE):
            raise LedgerError(f"run {run_id} is {run.state.value}; accept its predictions when it has ended")
        return run

    def _go(self, run: Run, least: float, *, make: bool) -> Accepted:
        made = people = gone = 0
        for task, score, row in self._rows(run, least):
            prediction = _own(row, run.spec.model_version)
            if prediction is None or not prediction.get("result"):
                gone += 1
            elif _touched(row) or (make and self._annotated(task)):
                people += 1
            else:
                made += 1
                if make:
                    self._make(run, task, prediction, f"run {run.id}, score {score:.2f}, at least {least:g}")
        return Accepted(made, people, gone)

    def _rows(self, run: Run, least: float) -> Iterator[tuple[int, float, Mapping[str, Any]]]:
        after = 0
        while found := self._reviews.at_least(key_of(run.id), least, after, _PAGE):
            after = found[-1][0]
            wanted = {"selectedItems": {"all": False, "included": [task for task, _ in found]}}
            listed = self._client.tasks_page(run.spec.project, 1, _PAGE, query=wanted, whole=True)
            rows = {row.get("id"): row for row in listed}
            for task, score in found:
                yield task, score, rows.get(task, {})

    def _annotated(self, task: int) -> bool:
        """Whether somebody annotated it since the page was read."""
        try:
            return bool(self._client.json("GET", f"/api/tasks/{task}/annotations/"))
        except LabelStudioError as error:
            if error.status == 404:
                return True
            raise

    def _make(self, run: Run, task: int, prediction: Mapping[str, Any], text: str) -> None:
        result = [mark(region, text) for region in prediction["result"] if isinstance(region, Mapping)]
        body = {"result": result, "parent_prediction": prediction["id"], "project": run.spec.project, "lead_time": 0.0}
        self._client.request("POST", f"/api/tasks/{task}/annotations/", body=body)


def _own(row: Mapping[str, Any], version: str) -> Mapping[str, Any] | None:
    listed = row.get("predictions")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    return next((entry for entry in entries if entry.get("model_version") == version), None)


def _touched(row: Mapping[str, Any]) -> bool:
    counts = ("total_annotations", "cancelled_annotations")
    return bool(row.get("annotations") or row.get("drafts") or row.get("draft_exists") is True) or any(
        row.get(name) for name in counts
    )
