"""What stands before the endpoints: Basic auth, and the promise that every error is short JSON with an id."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_backend.labelstudio.wire import RequestError, fresh_id

_log = logging.getLogger(__name__)
_BODY_SECONDS = 60.0
_INLINE_BYTES = 64 * 1024


class TooLargeError(ValueError):
    """The body is larger than allowed."""


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


async def read_json(request: Request, max_bytes: int) -> Any:
    """The request's JSON body.

    Raises:
        RequestError: no JSON, or it did not arrive in a minute.
        TooLargeError: longer than ``max_bytes``.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise TooLargeError(f"the body has {length} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLargeError(f"the body has more than {max_bytes} bytes")
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {_BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RequestError("the connection was closed before the body was complete") from None
    if len(body) <= _INLINE_BYTES:
        return _loads(bytes(body))
    return await asyncio.to_thread(_loads, bytes(body))


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON ({type(error).__name__})") from None


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
            started = started or message["type"] == "http.response.start"
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


class BasicAuth:
    """HTTP Basic auth for everything but ``open_paths``; anything that is not right is a 401.

    Label Studio's webhooks cannot log in, so ``/webhook`` is open, or asks for ``X-Webhook-Secret`` if one is set.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        user: str | None,
        password: str | None,
        webhook_secret: str | None = None,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._expected = None if user is None or password is None else _digest(f"{user}:{password}".encode())
        self._secret = None if webhook_secret is None else _digest(webhook_secret.encode())
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._admits(scope):
            await self._app(scope, receive, send)
            return
        response = error_response(
            401,
            "name and password are needed",
            "enter BASIC_AUTH_USER and BASIC_AUTH_PASS in the model's connection in Label Studio",
            headers={"WWW-Authenticate": 'Basic realm="int-backend", charset="UTF-8"'},
        )
        await response(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        path, headers = scope["path"].rstrip("/") or "/", dict(scope["headers"])
        logged_in = self._expected is not None and _same(self._expected, _credentials(headers.get(b"authorization")))
        if path == "/webhook":
            if self._secret is None:
                return True
            return logged_in or _same(self._secret, headers.get(b"x-webhook-secret", b""))
        return self._expected is None or logged_in or path in self._open


def _credentials(header: bytes | None) -> bytes:
    """``user:password`` of an Authorization header; something that matches nothing if it is not Basic."""
    scheme, _, value = (header or b"").strip().partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _same(expected: bytes, given: bytes) -> bool:
    return bool(given) and hmac.compare_digest(expected, _digest(given))
