"""Who may do what, by name and password or by token.

Three kinds of pages: those that Label Studio calls, those that show runs and the backend's state, and actions on runs.
Basic auth opens all of them. Where a token is set for the second or third kind, it takes the place of Basic auth there:
Label Studio's admins know that password, and need not be those who start runs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from ml_backend.api.middleware import error_response
from ml_backend.settings import Settings

WHO = "int_backend_who"
"""Key of the ASGI scope under which stands who sent an admitted request."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_STATE_PAGES = ("/runs", "/projects", "/status", "/metrics", "/audit")


@dataclass(frozen=True, slots=True)
class _Caller:
    """What a request proved: that it knows the password, or a token."""

    name: str
    logged_in: bool = False
    reads: bool = False
    acts: bool = False


class AccessGate:
    """Answers 401 to whoever may not; notes the others' names under `WHO`.

    Tokens come as ``Authorization: Bearer``, or as the password of Basic auth with any name, as browsers send it.
    Label Studio's webhooks cannot log in: ``/webhook`` asks for ``X-Webhook-Secret`` where one is set, is closed where
    only Basic auth is, and open otherwise.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        user, password = settings.basic_auth_user, _secret(settings.basic_auth_pass)
        self._user = user or ""
        self._login = None if user is None or password is None else _digest(f"{user}:{password}")
        self._hook = _digest(_secret(settings.webhook_secret))
        self._read = _digest(_secret(settings.read_token))
        self._admin = _digest(_secret(settings.admin_token))
        self._open = frozenset({"/", "/health"}) if settings.open_health else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        caller = self._caller(headers.get(b"authorization", b""))
        if self._admits(scope, headers, caller):
            scope[WHO] = caller.name
            await self._app(scope, receive, send)
            return
        response = error_response(
            401,
            "name and password are needed, or a token",
            "enter BASIC_AUTH_USER and BASIC_AUTH_PASS in the model's connection in Label Studio; pages and actions of "
            "runs take INT_READ_TOKEN and INT_ADMIN_TOKEN as password where those are set",
            headers={"WWW-Authenticate": 'Basic realm="int-backend", charset="UTF-8"'},
        )
        await response(scope, receive, send)

    def _admits(self, scope: Scope, headers: dict[bytes, bytes], caller: _Caller) -> bool:
        path = scope["path"].rstrip("/") or "/"
        logged_in = self._login is None or caller.logged_in
        if path == "/webhook":
            return caller.logged_in or (
                self._login is None if self._hook is None else _same(self._hook, headers.get(b"x-webhook-secret", b""))
            )
        if any(path == page or path.startswith(f"{page}/") for page in _STATE_PAGES):
            if scope["method"] not in _READING:
                no_other = (
                    self._login is not None or self._read is None
                )  # who asks for a token to read means to act, too
                return caller.acts if self._admin is not None else logged_in and no_other
            return caller.reads or caller.acts if self._read is not None else logged_in or caller.acts
        known = caller.reads or caller.acts
        return logged_in or path in self._open or (known and scope["method"] in _READING)

    def _caller(self, header: bytes) -> _Caller:
        scheme, _, value = header.strip().partition(b" ")
        kind, value = scheme.lower(), value.strip()
        token, pair = (value, b"") if kind == b"bearer" else (b"", b"")
        if kind == b"basic":
            try:
                pair = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                pair = b""
            token = pair.partition(b":")[2]
        if _same(self._admin, token):
            return _Caller("admin token", acts=True)
        if _same(self._read, token):
            return _Caller("read token", reads=True)
        if _same(self._login, pair):
            return _Caller(f"user {self._user}", logged_in=True)
        return _Caller("anyone")


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""


def _digest(text: str) -> bytes | None:
    return hashlib.sha256(text.encode()).digest() if text else None


def _same(expected: bytes | None, given: bytes) -> bool:
    return expected is not None and bool(given) and hmac.compare_digest(expected, hashlib.sha256(given).digest())
