"""Runs and their tasks as plain data: the JSON of ``/runs`` and of ``int-backend runs --json``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ml_backend.runs.types import Progress, Run, TaskRecord, TaskState


def run_json(run: Run, progress: Progress) -> dict[str, Any]:
    """A run as plain data; times in ISO 8601, UTC."""
    spec, request = run.spec, run.spec.request
    return {
        "id": run.id,
        "kind": spec.kind.value,
        "project": spec.project,
        "view": request.view,
        "state": run.state.value,
        "why": run.why,
        "stage": run.stage,
        "prompt": spec.prompt,
        "strategy": spec.strategy,
        "adapter": spec.adapter,
        "model_version": spec.model_version,
        "only_missing": request.only_missing,
        "include_annotated": request.include_annotated,
        "limit": request.limit,
        "created_at": _iso(run.created_at),
        "finished_at": None if run.finished_at is None else _iso(run.finished_at),
        "total": progress.total,
        "left": progress.left,
        "counts": {state.value: progress.counts.get(state, 0) for state in TaskState},
        "images_per_second": progress.rate,
        "eta_seconds": progress.eta_seconds,
        "workers": progress.workers,
        "silent": progress.silent,
        "free_in_seconds": progress.free_in,
    }


def record_json(record: TaskRecord) -> dict[str, Any]:
    """A task of a run as plain data."""
    return {**asdict(record), "state": record.state.value}


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
