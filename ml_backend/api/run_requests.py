"""What comes in at ``/runs``: requests for runs, and what an address asks for."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request

from ml_backend.api.bodies import Bodies
from ml_backend.labelstudio.wire import RequestError
from ml_backend.runs.types import RunRequest, TaskState

_MAX_BODY = 64 * 1024


class _Body(RunRequest):
    """``POST /runs``: ``dry_run`` only counts."""

    dry_run: bool = False


def wants_page(request: Request) -> bool:
    """Whether a person looks at the answer."""
    return "text/html" in request.headers.get("accept", "")


async def parse_fields(request: Request, most_bytes: int = _MAX_BODY) -> dict[str, Any]:
    """The fields of a JSON object or of a form, whose empty fields count as not given. Raises ``RequestError``."""
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/x-www-form-urlencoded":
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > most_bytes:
                raise RequestError("the form is too long")
        try:
            return {key: value.strip() for key, value in parse_qsl(raw.decode()) if value.strip()}
        except (UnicodeDecodeError, ValueError):
            raise RequestError("the form cannot be read") from None
    bodies: Bodies = request.app.state.bodies
    async with bodies.read(request, most_bytes) as content:
        given = content
    if not isinstance(given, dict):
        raise RequestError("the body needs to be a JSON object")
    return given


def run_request_of(given: dict[str, Any]) -> tuple[RunRequest, bool]:
    """What a run is to do, and whether only to count. Raises ``RequestError``."""
    try:
        body = _Body.parse(given)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return RunRequest(**body.model_dump(exclude={"dry_run"})), body.dry_run


def number_of(request: Request, name: str, default: int | None = None) -> int | None:
    """A whole number of the address, or the default. Raises ``RequestError``."""
    text = request.query_params.get(name)
    return whole_number(name, text) if text else default


def whole_number(name: str, value: object) -> int:
    """A whole number of at most 18 digits, as JSON (where 3.0 is one) or as text. Raises ``RequestError``."""
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise RequestError(f"{name} needs to be a whole number")
    return int(text)


def state_of(request: Request) -> TaskState | None:
    """The state that the address asks for. Raises ``RequestError``."""
    text = request.query_params.get("state")
    if not text:
        return None
    if text not in tuple(TaskState):
        raise RequestError(f"state needs to be one of {', '.join(TaskState)}")
    return TaskState(text)


def order_of(request: Request) -> str:
    """``doubt``, or "" for the order of ids. Raises ``RequestError``."""
    text = request.query_params.get("order") or ""
    if text not in ("", "doubt"):
        raise RequestError("order needs to be doubt, or left out")
    return text
