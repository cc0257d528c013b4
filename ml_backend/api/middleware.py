"""Around the endpoints: every error is short JSON with an id, and no page of another site may embed an answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from int_model.html.environment import page_environment
from ml_backend.labelstudio.wire import fresh_id

_log = logging.getLogger(__name__)
_SCRIPTS = ("renew.js", "review.js")


def _digests() -> str:
    """The scripts of our own, as a Content-Security-Policy names them."""
    template = page_environment("ml_backend.api").from_string("'sha256-{{ source(name)|sha256 }}'")
    return " ".join(template.render(name=name) for name in _SCRIPTS)


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
    f"script-src {_digests()}; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every page for people: no scripts but those of our own, nothing from elsewhere, no frames."""

_EVERYWHERE = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))


class JsonResponse(JSONResponse):
    """ASCII JSON without NaN, whatever text it holds; takes data, or text that is JSON already."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        text = content if isinstance(content, str) else dump(content)
        return text.encode("ascii")


def dump(content: Any) -> str:
    """Strict JSON: raises ``ValueError`` for numbers that are not finite."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def error_response(
    status: int, message: str, cure: str, *, incident: str | None = None, headers: Mapping[str, str] | None = None
) -> JsonResponse:
    """An error for the caller; ``incident`` finds it in the log."""
    body = {"id": incident or fresh_id(), "error": message, "cure": cure}
    return JsonResponse(body, status, headers=dict(headers or {}))


class ErrorGuard:
    """Outermost: an unexpected exception becomes a 500 with an id; the traceback goes to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(entry for entry in _EVERYWHERE if entry[0] not in given)]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 - the last resort; logged with its id
            incident = fresh_id()
            _log.error("%s %s failed, incident %s", scope["method"], scope["path"], incident, exc_info=error)
            if not started:
                response = error_response(
                    500, "something went wrong in the backend", f"look for {incident} in its log", incident=incident
                )
                await response(scope, receive, send)
