"""What a batch run is: its description, the states of run and tasks, leases, results, progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class RunState(StrEnum):
    """Where a run stands. Only an active run hands out tasks."""

    PREPARING = "preparing"  # its tasks are being listed
    ACTIVE = "active"
    STOPPED = "stopped"  # by the backend, with a reason; can be resumed
    CANCELLED = "cancelled"  # by a person; can be resumed
    FINISHED = "finished"  # no task is pending or leased


class TaskState(StrEnum):
    """Where a task of a run stands. ``DONE``, ``ABSTAINED``, ``FAILED`` and ``SKIPPED`` are final."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    ABSTAINED = "abstained"  # an empty prediction was pushed: looked, found nothing
    FAILED = "failed"
    SKIPPED = "skipped"  # annotated by a person, deleted, or predicted by this very version already


class RunKind(StrEnum):
    """What is done with the tasks of a run. A worker leases only tasks of the kinds that it has an executor for."""

    PREDICT = "predict"  # tasks of the project are annotated, and the predictions pushed
    TRAIN = "train"  # one task, the training of the project's next version


class RunRequest(BaseModel):
    """What a run is to do, as the command line, ``POST /runs`` and the ledger have it. ``ValueError`` if it is wrong.

    Attributes:
        project: Label Studio's id of the project.
        view: id of the Data Manager view whose tasks are taken, or None for all.
        prompt: instead of the connection's, for labels that have none of their own; "" for the connection's.
        limit: most tasks, or None.
        only_missing: leave out tasks that have a prediction of this version when the run is made. Such a task never
            gets a second one in any case.
        include_annotated: also take tasks that people annotated, skipped or began.
        set_model_version: make Label Studio show this version (``project.model_version``) when the run ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    project: int = Field(ge=1)
    view: int | None = Field(None, ge=1)
    prompt: str = Field("", max_length=2000)
    limit: int | None = Field(None, ge=1)
    only_missing: bool = False
    include_annotated: bool = False
    set_model_version: bool = False

    @classmethod
    def parse(cls, given: Any) -> Self:
        """From plain data. Raises ``ValueError`` with a sentence that names the field."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What a run of the kind `RunKind.TRAIN` is to do.

    Attributes:
        base: fingerprint of the segmenter that is learned on.
        parent: id of the version that served when the run was made, "" for the base models.
        corrections: digest of the annotations that were known then.
        images: annotated tasks that were known then.
        seed: of folds, simulated prompts and training.
        steps: optimiser steps of a trained arm, or None for what the number of images suggests.
        group: field of the tasks' data by which images belong together, or "".
        why: what began it, for people.
    """

    base: str
    parent: str = ""
    corrections: str = ""
    images: int = 0
    seed: int = 0
    steps: int | None = None
    group: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run does: what was asked for, and what that meant when the run was made. It never changes afterwards.

    Attributes:
        request: what was asked for.
        label_config: the labeling config.
        extra_params: the connection's extra params (the request's prompt included), as ``/setup`` takes them.
        model_version: the version that every prediction of the run carries.
        prompt: the task prompt in words, for people.
        strategy: name of the strategy.
        config_hash: hash of ``label_config``; a worker compares it with the project's before it begins a batch.
        adapter: id of the project's adapter over the base models, or "" for the base models alone.
        kind: what is done with the tasks.
        training: of a run that trains.
    """

    request: RunRequest
    label_config: str
    extra_params: Any
    model_version: str
    prompt: str
    strategy: str
    config_hash: str
    adapter: str = ""
    kind: RunKind = RunKind.PREDICT
    training: TrainingRequest | None = None

    @property
    def project(self) -> int:
        """Label Studio's id of the project."""
        return self.request.project

    def as_text(self) -> str:
        """As JSON, for `of_text`."""
        return json.dumps({**asdict(self), "request": self.request.model_dump()})

    @classmethod
    def of_text(cls, text: str) -> RunSpec:
        """From `as_text`."""
        plain = json.loads(text)
        request, kind = RunRequest(**plain.pop("request")), RunKind(plain.pop("kind"))
        training = plain.pop("training", None)
        return cls(request, kind=kind, training=training and TrainingRequest(**training), **plain)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the ledger knows it. ``why`` says what stopped it, ``stage`` what a training is at; both may be ""."""

    id: str
    spec: RunSpec
    state: RunState
    why: str
    created_at: datetime
    finished_at: datetime | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on tasks of a run until it expires; given by `Ledger.lease`.

    ``attempts`` maps each task id to how often it was leased, this time included: above 1 a worker may have
    pushed a prediction already and died before the ledger knew.
    """

    run: str
    token: str
    owner: str
    attempts: Mapping[int, int]

    @property
    def tasks(self) -> tuple[int, ...]:
        """The task ids, ascending."""
        return tuple(sorted(self.attempts))


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The final state of one task: ``reason`` for failed, abstained and skipped ones; ``seconds`` of work."""

    task: int
    state: TaskState
    score: float | None = None
    reason: str = ""
    seconds: float = 0.0
    prediction: int | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One row of a run for people."""

    task: int
    state: TaskState
    attempts: int
    score: float | None
    reason: str
    seconds: float
    prediction: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        counts: tasks by state, every state present.
        rate: final tasks per second over the last minutes, or None while there is nothing to measure.
        workers: owners of leases that have not expired.
        silent: tasks of workers that have not been heard of for half of the time that a lease lasts.
        free_in: seconds until other workers get the last of these, or None where there are none.
    """

    counts: Mapping[TaskState, int] = field(default_factory=dict)
    rate: float | None = None
    workers: int = 0
    silent: int = 0
    free_in: float | None = None

    @property
    def total(self) -> int:
        """All tasks of the run."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """Tasks that are not final."""
        return self.counts.get(TaskState.PENDING, 0) + self.counts.get(TaskState.LEASED, 0)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the end at the present rate, or None if there is no saying."""
        return self.left / self.rate if self.rate else None


def config_hash(label_config: str) -> str:
    """What a labeling config is recognised by."""
    return hashlib.sha256(label_config.encode("utf-8", "surrogatepass")).hexdigest()
