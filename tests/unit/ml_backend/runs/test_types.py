"""What a run is asked for and what is told of it: limits of requests, specs as text, progress, and errors' words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_backend.runs.errors import LedgerError, RunExistsError, UnknownRunError
from ml_backend.runs.plain import record_json, run_json
from ml_backend.runs.types import (
    Lease,
    Progress,
    Run,
    RunKind,
    RunRequest,
    RunSpec,
    RunState,
    TaskRecord,
    TaskResult,
    TaskState,
    TrainingRequest,
    config_hash,
)
from tests.integration.ledger.kit import SPEC

BEGUN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
RUN = Run("4", SPEC, RunState.ACTIVE, "", BEGUN)


@pytest.mark.parametrize("given", [{"project": 1}, {"project": 7, "limit": 1, "view": 1, "prompt": "p" * 2000}])
def test_what_makes_sense_is_asked_for(given: dict[str, Any]) -> None:
    request = RunRequest.parse(given)
    assert request.model_dump(exclude_defaults=True) == given
    assert (request.only_missing, request.include_annotated, request.set_model_version) == (False, False, False)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "project"),
        ({"project": 0}, "project"),
        ({"project": 7, "limit": 0}, "limit"),
        ({"project": 7, "view": 0}, "view"),
        ({"project": 7, "prompt": "p" * 2001}, "prompt"),
        ({"project": 7, "more": 1}, "more"),
        ({"project": "x", "limit": 0}, "project"),
    ],
)
def test_what_makes_none_is_one_sentence_that_names_the_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: ") as caught:
        RunRequest.parse(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "training", [None, TrainingRequest("segmenter-1", parent="abc", images=4, steps=10, why="asked")]
)
def test_a_spec_is_the_same_after_it_was_kept(training: TrainingRequest | None) -> None:
    spec = replace(SPEC, training=training, kind=RunKind.TRAIN if training else RunKind.PREDICT, adapter="abc")
    assert RunSpec.of_text(spec.as_text()) == spec
    assert spec.project == 7


def test_progress_of_a_run() -> None:
    assert (Progress().total, Progress().left, Progress().workers, Progress().eta_seconds) == (0, 0, 0, None)
    counts = {TaskState.PENDING: 3, TaskState.LEASED: 2, TaskState.DONE: 5}
    assert Progress(counts, rate=0.5).eta_seconds == 10.0
    assert (Progress(counts).total, Progress(counts).left, Progress(counts).eta_seconds) == (10, 5, None)
    assert Progress({TaskState.DONE: 5}, rate=2.0).eta_seconds == 0.0


def test_tasks_of_a_lease_are_in_order() -> None:
    assert Lease("1", "2", "host:1:x", {3: 1, 1: 2, 2: 1}).tasks == (1, 2, 3)


def test_labels_with_odd_letters_have_a_hash() -> None:
    assert config_hash("<View>\ud800</View>") != config_hash("<View/>") == config_hash("<View/>")


def test_a_run_for_programs_has_every_count_and_times_in_utc() -> None:
    shown = run_json(RUN, Progress({TaskState.DONE: 2}, 0.5, 1))
    assert shown["created_at"] == "2026-11-01T12:00:00Z"
    assert shown["finished_at"] is None
    assert shown["counts"] == {state.value: 2 if state is TaskState.DONE else 0 for state in TaskState}
    assert (shown["id"], shown["state"], shown["total"], shown["left"], shown["workers"]) == ("4", "active", 2, 0, 1)
    ended = replace(RUN, state=RunState.FINISHED, finished_at=BEGUN.replace(hour=13))
    assert run_json(ended, Progress())["finished_at"] == "2026-11-01T13:00:00Z"
    record = TaskRecord(1, TaskState.FAILED, 2, None, "no image", 0.5, None)
    assert record_json(record) == {
        "task": 1, "state": "failed", "attempts": 2, "score": None, "reason": "no image", "seconds": 0.5,
        "prediction": None,
    }  # fmt: skip


def test_what_the_ledger_refuses_names_the_next_command() -> None:
    unknown, exists = UnknownRunError("99"), RunExistsError(RUN)
    assert isinstance(unknown, LedgerError)
    assert "'99'" in str(unknown)
    assert "int-backend runs list" in str(unknown)
    assert exists.run is RUN
    assert "run 4" in str(exists)
    assert "join it, or cancel it first" in str(exists)


def test_a_result_without_work_took_no_time() -> None:
    assert TaskResult(1, TaskState.SKIPPED) == TaskResult(1, TaskState.SKIPPED, None, "", 0.0, None)
