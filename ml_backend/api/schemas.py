"""What ``/runs``, ``/projects`` and ``/audit`` take and answer as JSON, for the OpenAPI page."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from int_model.strategies.registry import STRATEGIES
from ml_backend.api import openapi as api
from ml_backend.api.middleware import JsonResponse
from ml_backend.api.run_actions.schema import (
    AcceptedOut,
    JudgedOut,
    Out,
    ReviewOut,
    UndoneOut,
    VerifiedOut,
)

READ_ERRORS = (*api.PAGE_ERRORS, 400, 404, 502, 503)
ACT_ERRORS = (*api.BODY_ERRORS, 404, 409, 502)
_MOST = 999_999_999_999_999_999
_COUNT = {"type": "integer", "minimum": 0, "maximum": _MOST}
_ID = {"type": "integer", "minimum": 1, "maximum": _MOST}


class CountsOut(Out):
    """Tasks of a run by state."""

    pending: int
    leased: int
    done: int
    abstained: int
    failed: int
    skipped: int


class RunOut(Out):
    """A run and its progress."""

    id: str
    kind: Literal["predict", "train"]
    project: int
    view: int | None
    state: Literal["preparing", "active", "stopped", "cancelled", "finished"]
    why: str
    stage: str
    prompt: str
    strategy: str
    adapter: str
    model_version: str
    only_missing: bool
    include_annotated: bool
    limit: int | None
    created_at: str
    finished_at: str | None
    total: int
    left: int
    counts: CountsOut
    images_per_second: float | None
    eta_seconds: float | None
    workers: int
    silent: int
    free_in_seconds: float | None


class RunsOut(Out):
    """The newest runs."""

    runs: list[RunOut]


class StartedOut(Out):
    """A run that was begun or joined; only the count of its tasks with ``dry_run``."""

    run: RunOut | None
    joined: bool
    count: int | None
    warnings: list[str]


class TaskOut(Out):
    """A task of a run: its state, what came of it, and why."""

    task: int
    state: Literal["pending", "leased", "done", "abstained", "failed", "skipped"]
    attempts: int
    score: float | None
    reason: str
    seconds: float
    prediction: int | None


class TasksOut(Out):
    """Tasks of a run; ``next`` is the next ``after``, or null."""

    tasks: list[TaskOut]
    next: int | None


class PromptOut(Out):
    """What is looked for under a label, and where that prompt comes from."""

    label: str
    prompt: str
    source: str


class ProjectOut(Out):
    """A project; ``version`` is of the next predictions, or empty where it is not connected."""

    id: int
    title: str
    tasks: int
    predictions: int
    annotations: int
    version: str
    address: str
    prompts: list[PromptOut]
    remarks: list[str]


class ProjectsOut(Out):
    """The newest projects; ``more``: there are others."""

    projects: list[ProjectOut]
    more: bool


class ChangeOut(Out):
    """A change in Label Studio: in words, and as a request."""

    what: str
    method: str
    path: str


class PlanOut(Out):
    """What connecting changes."""

    changes: list[ChangeOut]
    remarks: list[str]
    difference: list[str]


class FindingOut(Out):
    """Of the doctor."""

    check: str
    level: str
    text: str
    cure: str


class ProjectPageOut(ProjectOut):
    """A project, the doctor's findings, and what connecting it as asked would change."""

    findings: list[FindingOut]
    refused: str
    plans: list[PlanOut]


class ConnectedOut(Out):
    """What was changed, and whether Label Studio reaches the backend."""

    plans: list[PlanOut]
    reached: bool


class TrialOut(BaseModel):
    """A trial: how far it is, or its figures; the result's other fields are in docs/runs.md."""

    model_config = ConfigDict(extra="allow")

    state: Literal["running", "done"]


class EntryOut(Out):
    """Something that was asked for."""

    id: int
    at: str
    who: str
    place: str
    action: str
    what: str


class AuditOut(Out):
    """Who did what, newest first; ``next`` is the next ``before``, or null."""

    entries: list[EntryOut]
    next: int | None


def _in_path(name: str, description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description,
            "example": example}  # fmt: skip


def _in_query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_PROJECT = _in_path("project", "Label Studio's id.", _COUNT, 1)
_RUN = _in_path("run_id", "The run's id.", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"}, "1")
_ACTION = _in_path("action", "What to do; retry does the failed tasks again.",
                   {"type": "string", "enum": ["cancel", "resume", "retry"]}, "cancel")  # fmt: skip
_STATES = list(TaskOut.model_fields["state"].annotation.__args__)  # type: ignore[union-attr]


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


def _text(description: str, longest: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest, "description": description}


_RUN_BODY = api.body(
    {
        "type": "object",
        "required": ["project"],
        "additionalProperties": False,
        "properties": {
            "project": _ID | {"description": "Label Studio's id."},
            "view": {"anyOf": [_ID, {"type": "null"}], "description": "Id of the view whose tasks are taken."},
            "prompt": _text("Instead of the connection's.", 200),
            "limit": {"anyOf": [_ID, {"type": "null"}], "description": "Most tasks."},
            "only_missing": _flag("Leave out tasks that have a prediction of this version."),
            "include_annotated": _flag("Also tasks that people annotated."),
            "set_model_version": _flag("Show this version in Label Studio at the end."),
            "dry_run": _flag("Only count."),
        },
    },
    {"project": 1, "dry_run": True},
)
_CONNECT_BODY = api.body(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "prompt": _text("The task prompt of the connection.", 200),
            "control": {"type": "string", "enum": ["", "polygon", "brush", "bitmask", "rectangle"],
                        "description": "What masks are drawn with, where the config has nothing yet."},
            "label": _text("The label, where the config has none.", 200),
            "smart": _flag("Tools for clicks and boxes."),
            "backend": _text("The backend's address as Label Studio reaches it.", 300),
            "strategy": _text("Of the project's labels.", 200),
            "threshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "The least score."},
        },
    },
    {"smart": False},
)  # fmt: skip
_SIDE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "prompt": _text("The project's own if empty.", 200),
        "strategy": {"type": "string", "enum": ["", *STRATEGIES]},
    },
}
_TRY_BODY = api.body(
    {
        "type": "object",
        "required": ["sides"],
        "properties": {
            "sides": {"type": "array", "minItems": 1, "maxItems": 2, "items": _SIDE, "description": "What to compare."},
            "images": {"type": "integer", "minimum": 1, "maximum": 50, "description": "How many."},
            "view": _ID | {"description": "Id of the view whose tasks are taken."},
            "annotated": _flag("Only annotated tasks."),
            "seed": _COUNT | {"description": "Of the choice of tasks."},
        },
    },
    {"sides": [{"prompt": "polyp"}], "images": 1},
)
_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_JUDGE_BODY = api.body(
    {
        "type": "object",
        "required": ["task"],
        "additionalProperties": False,
        "properties": {
            "task": _COUNT | {"description": "Label Studio's id."},
            "verdict": {"type": "string", "enum": ["", "accept", "skip", "wrong"], "description": "Empty: taken back."},
            "note": _text("In words.", 500),
            "against": {"type": "string", "pattern": "^[0-9]{1,18}$", "description": "Of the page to go back to."},
            "after": _COUNT | {"description": "The same."},
        },
    },
    {"task": 1, "verdict": "accept"},
)
_ACCEPT_BODY = api.body(
    {
        "type": "object",
        "required": ["least"],
        "additionalProperties": False,
        "properties": {"least": _SCORE | {"description": "Predictions with at least that score become annotations."}},
    },
    {"least": 1.0},
)
_VERIFY_BODY = api.body(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {"push": _flag("Do what is missing again and push it; remove second predictions.")},
    },
    {"push": False},
)
_LIMIT = _in_query("limit", "How many at most.", {"type": "integer", "minimum": 0, "maximum": 1000})


def described(
    model: type[BaseModel],
    *,
    body: dict[str, Any] | None = None,
    parameters: tuple[dict[str, Any], ...] = (),
    **others: type[BaseModel],
) -> dict[str, Any]:
    """What FastAPI is told of an endpoint: answers, errors, ``parameters``. Acts have a ``body``, if an empty one."""
    acting = body is not None
    errors = ACT_ERRORS if acting else READ_ERRORS
    return {"response_class": JsonResponse, "responses": api.answers(model, errors, **others),
            "openapi_extra": {**({"parameters": list(parameters)} if parameters else {}), **(body or {})}}  # fmt: skip


RUNS = {
    "list": described(RunsOut, parameters=(_in_query("project", "Of this one only.", _COUNT), _LIMIT)),
    "start": described(StartedOut, body=_RUN_BODY, created=StartedOut, accepted=StartedOut),
    "show": described(RunOut, parameters=(_RUN,)),
    "tasks": described(TasksOut, parameters=(
        _RUN, _LIMIT, _in_query("after", "The last task of the page before.", _COUNT),
        _in_query("state", "Only tasks in this state.", {"type": "string", "enum": _STATES}),
        _in_query("order", "doubt: the lowest scores first; after is then how many to leave out.",
                  {"type": "string", "enum": ["doubt"]}))),
    "undo": described(UndoneOut, parameters=(_RUN,)),
    "do undo": described(UndoneOut, body={}, parameters=(_RUN,), accepted=UndoneOut),
    "verification": described(VerifiedOut, parameters=(_RUN,)),
    "verify": described(VerifiedOut, body=_VERIFY_BODY, parameters=(_RUN,), accepted=VerifiedOut),
    "review": described(ReviewOut, parameters=(
        _RUN, _LIMIT, _in_query("after", "How many to leave out.", _COUNT),
        _in_query("against", "A run to compare with.", {"type": "string", "pattern": "^[0-9]{1,18}$"}))),
    "judge": described(JudgedOut, body=_JUDGE_BODY, parameters=(_RUN,)),
    "acceptance": described(AcceptedOut, parameters=(_RUN, _in_query("least", "The least score.", _SCORE))),
    "accept": described(AcceptedOut, body=_ACCEPT_BODY, parameters=(_RUN,)),
    "steer": described(RunOut, body={}, parameters=(_RUN, _ACTION)),
}  # fmt: skip
"""Of the endpoints of ``/runs``."""

PROJECTS = {
    "list": described(ProjectsOut),
    "show": described(ProjectPageOut, parameters=(_PROJECT,)),
    "connect": described(ConnectedOut, body=_CONNECT_BODY, parameters=(_PROJECT,)),
    "trial": described(TrialOut, parameters=(_PROJECT,)),
    "try": described(TrialOut, body=_TRY_BODY, parameters=(_PROJECT,), accepted=TrialOut),
}
"""Of the endpoints of ``/projects``."""

AUDIT = described(AuditOut, parameters=(_LIMIT, _in_query("before", "Entries before this id.", _COUNT)))
"""Of ``/audit``."""
