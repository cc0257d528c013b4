"""What the OpenAPI page says of bodies and answers; endpoints read and write plain JSON, tests hold both together.

Label Studio's payloads are taken as tolerantly as its own examples take them, so the bodies' schemas say what is read
and of which kind it is meant to be, and refuse only what is really refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_backend.labelstudio.wire import PredictionOut, RegionOut

_ANYTHING: dict[str, Any] = {}


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorOut(_Out):
    """Every error. ``id`` finds it in the log where it was unexpected."""

    id: str = Field(pattern="^[A-Za-z0-9]{12}$")
    error: str = Field(description="What is wrong.")
    cure: str = Field(description="What to do about it.")


class HealthOut(_Out):
    """Alive."""

    model_class: Literal["IntBackend"]
    status: Literal["UP"]
    models: Literal["idle", "loading", "ready", "failed", "closed"] = Field(
        description="Predictions are made once they are ready; requests before that wait for them."
    )


class SetupOut(_Out):
    """The project is known."""

    model_version: str


class CapabilitiesOut(_Out):
    """Answer to the interactive event ``capabilities``: what may be sent, and what comes back."""

    value: dict[str, Any]


class ImageMaskOut(_Out):
    """Answer to a click of the protocol of 2026: one grey picture, without a control."""

    id: str
    type: Literal["bitmask"]
    value: dict[str, str]
    original_width: int = Field(ge=1)
    original_height: int = Field(ge=1)
    image_rotation: Literal[0]
    score: float = Field(ge=0.0, le=1.0)


class InteractiveOut(_Out):
    """An interactive answer that is no region of the labeling config."""

    result: list[CapabilitiesOut | ImageMaskOut]
    score: float = Field(ge=0.0, le=1.0)
    model_version: str


class PredictOut(_Out):
    """One entry per task, in order; ``[]`` for a task that failed or is not ready in time (never if interactive)."""

    results: list[PredictionOut | InteractiveOut | list[RegionOut]]


class WebhookOut(_Out):
    """The event was taken note of."""

    status: Literal["ok"]
    result: dict[str, Any]


class UnknownEventOut(_Out):
    """An event of no use to this backend."""

    status: Literal["Unknown event"]


class VersionsOut(_Out):
    """Model versions in use."""

    versions: list[str]


class StatusOut(BaseModel):
    """For operators."""

    model_config = ConfigDict(extra="allow")

    models: str
    why: str
    waiting_for_models: int = Field(ge=0)
    at_the_models: int = Field(ge=0)
    waiting_clicks: int = Field(ge=0)
    out_of_memory: dict[str, int]
    tasks_on_their_way: int = Field(ge=0)
    versions: list[str]
    problems: list[str]


_ERRORS = {
    400: "The body is not what is expected here, or did not arrive in a minute.",
    403: "A page of another site sent it.",
    401: "Name and password (or the webhook's secret) are missing or wrong.",
    404: "There is no such page, run, project or view.",
    409: "What is asked for is not there, or may not be done now; nothing was changed.",
    413: "The body is longer than allowed, or holds too many values.",
    415: "The body is not sent as JSON.",
    421: "The host name is not one of ours; see INT_HOSTNAMES.",
    500: "Unexpected; the log has the traceback under the id.",
    502: "Label Studio refused, or is not there; the message says more.",
    503: "Other bodies fill what may be read at a time; or the database is away or deleted, or its disk is full.",
}
BODY_ERRORS = (400, 401, 403, 413, 415, 421, 500, 503)
PAGE_ERRORS = (401, 421, 500)


def answers(model: type[BaseModel], errors: tuple[int, ...], **others: type[BaseModel]) -> dict[int | str, Any]:
    """The ``responses`` of an endpoint: 200, ``others`` as ``created=...`` or ``accepted=...``, and errors."""
    said: dict[int | str, Any] = {200: {"model": model, "description": (model.__doc__ or "").strip()}}
    for name, status in (("created", 201), ("accepted", 202)):
        if name in others:
            said[status] = {"model": others[name], "description": (others[name].__doc__ or "").strip()}
    return said | {status: {"model": ErrorOut, "description": _ERRORS[status]} for status in errors}


def text_answer(description: str, media_type: str) -> dict[int | str, Any]:
    """The ``responses`` of a page that is text."""
    page: dict[str, Any] = {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}
    said: dict[int | str, Any] = {200: page}
    return said | {status: {"model": ErrorOut, "description": _ERRORS[status]} for status in PAGE_ERRORS}


def body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of an endpoint that reads JSON."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _what(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "examples": [example]}


_CONFIG = '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">...</View>'
_PROJECT = _what("Its id; the text before the first dot counts.", "1.1795238777")

SETUP_BODY = body(
    {
        "type": "object",
        "properties": {
            "project": _PROJECT,
            "schema": _what("The labeling config.", _CONFIG),
            "extra_params": _what("A task prompt as plain text, or an object, or the JSON text of one.", "polyp"),
            "hostname": _what("Not read.", "http://label-studio:8080"),
            "access_token": _what("Not read.", ""),
        },
    },
    {"project": "1.1795238777", "schema": _CONFIG, "extra_params": "polyp"},
)

PREDICT_BODY = body(
    {
        "type": "object",
        "required": ["tasks"],
        "properties": {
            "tasks": {
                "type": "array",
                "description": "Objects with id and data; what is something else gets a [] in its place.",
                "items": _ANYTHING,
            },
            "project": _PROJECT,
            "label_config": _what("The labeling config; that of /setup if it is missing.", _CONFIG),
            "params": _what(
                'An object; with "context" the request is interactive: its "result" holds points, boxes, strokes or a '
                'typed text, its "event" one of capabilities, prewarm and release.',
                {"context": None},
            ),
        },
    },
    {
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/a.png"}}],
        "project": "1.1795238777",
        "label_config": _CONFIG,
        "params": {"context": None},
    },
)

WEBHOOK_BODY = body(
    {
        "description": "Label Studio's event; JSON of any form is taken.",
        "properties": {
            "action": _what("The event's name.", "PROJECT_UPDATED"),
            "project": _what("The project, with its id and label_config.", {"id": 1, "label_config": _CONFIG}),
        },
    },
    {"action": "PROJECT_UPDATED", "project": {"id": 1, "label_config": _CONFIG}},
)

VERSIONS_QUERY = {
    "parameters": [
        {
            "name": "project",
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "Of this project only.",
        }
    ]
}


def with_security(schema: dict[str, Any]) -> dict[str, Any]:
    """The page with Basic auth declared as an option: whether it is asked for is a setting."""
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"basic": {"type": "http", "scheme": "basic"}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["security"] = [{}, {"basic": []}]
    return schema
