"""Who gets through, by path, method, and what a request proves: the whole table, without a server."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from ml_backend.api.access import WHO, AccessGate
from ml_backend.settings import Settings

LOGIN = {"basic_auth_user": "anna", "basic_auth_pass": "pass:word"}
READ, ADMIN, HOOK = {"read_token": "r-token"}, {"admin_token": "a-token"}, {"webhook_secret": "h-secret"}


def basic(pair: str) -> bytes:
    return b"Basic " + base64.b64encode(pair.encode())


ANNA, WRONG = basic("anna:pass:word"), basic("anna:pass")
READER, ACTOR = b"Bearer r-token", b"Bearer a-token"
LEFT, REFUSED = "", "refused"


def asked(
    folder: Path, given: dict[str, Any], method: str, path: str, sign: bytes = b"", hook: bytes = b""
) -> tuple[str, list[Any]]:
    """Under which name the request came through, or `REFUSED`; and what was sent."""
    seen: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope[WHO])

    async def nothing() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    settings = Settings(data_dir=folder, **given)
    headers = [(b"authorization", sign)] if sign else []
    headers += [(b"x-webhook-secret", hook)] if hook else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(AccessGate(app, settings)(scope, nothing, send))
    return (seen[0] if seen else REFUSED), sent


ROWS: list[tuple[dict[str, Any], str, str, bytes, str]] = [
    # nothing is set: everybody
    ({}, "POST", "/predict", b"", "anyone"),
    ({}, "POST", "/runs", b"", "anyone"),
    ({}, "GET", "/runs", b"", "anyone"),
    ({}, "POST", "/webhook", b"", "anyone"),
    # name and password open everything
    (LOGIN, "POST", "/predict", ANNA, "user anna"),
    (LOGIN, "POST", "/predict", WRONG, REFUSED),
    (LOGIN, "POST", "/predict", b"", REFUSED),
    (LOGIN, "POST", "/predict", b"basic " + ANNA[6:], "user anna"),
    (LOGIN, "POST", "/predict", b"Basic !!!", REFUSED),
    (LOGIN, "POST", "/predict", b"Bearer anna:pass:word", REFUSED),
    (LOGIN, "GET", "/runs/4", ANNA, "user anna"),
    (LOGIN, "POST", "/runs", ANNA, "user anna"),
    (LOGIN, "POST", "/runs", b"", REFUSED),
    (LOGIN, "GET", "/health", b"", REFUSED),
    (LOGIN | {"open_health": True}, "GET", "/health", b"", "anyone"),
    (LOGIN | {"open_health": True}, "GET", "/", b"", "anyone"),
    (LOGIN | {"open_health": True}, "GET", "/health/", b"", "anyone"),
    (LOGIN | {"open_health": True}, "GET", "/status", b"", REFUSED),
    # a token to read, and one to act, take the place of the password on these pages
    (LOGIN | READ | ADMIN, "GET", "/runs", READER, "read token"),
    (LOGIN | READ | ADMIN, "GET", "/runs", ACTOR, "admin token"),
    (LOGIN | READ | ADMIN, "GET", "/runs", ANNA, REFUSED),
    (LOGIN | READ | ADMIN, "POST", "/runs", ACTOR, "admin token"),
    (LOGIN | READ | ADMIN, "POST", "/runs", READER, REFUSED),
    (LOGIN | READ | ADMIN, "POST", "/runs", ANNA, REFUSED),
    (LOGIN | READ | ADMIN, "HEAD", "/metrics", READER, "read token"),
    (LOGIN | READ | ADMIN, "OPTIONS", "/audit", READER, "read token"),
    (LOGIN | READ | ADMIN, "DELETE", "/projects/7", READER, REFUSED),
    (LOGIN | READ | ADMIN, "GET", "/status/", READER, "read token"),
    (LOGIN | READ | ADMIN, "GET", "/runsheet", READER, "read token"),
    (LOGIN | READ | ADMIN, "GET", "/runsheet", ANNA, "user anna"),
    (LOGIN | READ | ADMIN, "POST", "/predict", ACTOR, REFUSED),
    (LOGIN | READ | ADMIN, "POST", "/predict", ANNA, "user anna"),
    (LOGIN | READ | ADMIN, "GET", "/health", READER, "read token"),
    (LOGIN | READ | ADMIN, "GET", "/health", ACTOR, "admin token"),
    (LOGIN | READ, "POST", "/runs", ANNA, "user anna"),
    (LOGIN | READ, "POST", "/runs", READER, REFUSED),
    (LOGIN | ADMIN, "GET", "/runs", ANNA, "user anna"),
    (LOGIN | ADMIN, "GET", "/runs", ACTOR, "admin token"),
    (LOGIN | ADMIN, "GET", "/runs", b"", REFUSED),
    (LOGIN | ADMIN, "POST", "/runs", ANNA, REFUSED),
    # tokens alone
    (READ, "GET", "/runs", b"", REFUSED),
    (READ, "GET", "/runs", READER, "read token"),
    (READ, "POST", "/runs", b"", REFUSED),  # who asks for a token to read means to act, too
    (READ, "POST", "/runs", READER, REFUSED),
    (READ, "POST", "/predict", b"", "anyone"),
    (ADMIN, "POST", "/runs", b"", REFUSED),
    (ADMIN, "POST", "/runs", ACTOR, "admin token"),
    (ADMIN, "GET", "/runs", b"", "anyone"),
    # a browser sends a token as the password of any name
    (READ | ADMIN, "GET", "/runs", basic("x:r-token"), "read token"),
    (READ | ADMIN, "POST", "/runs", basic("x:a-token"), "admin token"),
    (READ | ADMIN, "POST", "/runs", basic("a-token"), REFUSED),
    # webhooks cannot log in
    (LOGIN, "POST", "/webhook", b"", REFUSED),
    (LOGIN, "POST", "/webhook", ANNA, "user anna"),
    (LOGIN | HOOK, "POST", "/webhook", b"", REFUSED),
    (LOGIN | HOOK, "POST", "/webhook", ANNA, "user anna"),
    (HOOK, "POST", "/webhook", b"", REFUSED),
    (ADMIN, "POST", "/webhook", ACTOR, "admin token"),
]


@pytest.mark.parametrize(("given", "method", "path", "sign", "expected"), ROWS)
def test_who_gets_through(
    tmp_path: Path, given: dict[str, Any], method: str, path: str, sign: bytes, expected: str
) -> None:
    name, sent = asked(tmp_path, given, method, path, sign)
    assert name == expected
    if name == REFUSED:
        start, body = sent
        assert start["status"] == 401
        assert (b"www-authenticate", b'Basic realm="int-backend", charset="UTF-8"') in start["headers"]
        assert b"INT_READ_TOKEN" in body["body"]
    else:
        assert sent == []


@pytest.mark.parametrize("path", ["/webhook", "/webhook/"])
@pytest.mark.parametrize("given", [HOOK, LOGIN | HOOK])
def test_a_webhook_comes_through_with_its_secret_only(tmp_path: Path, given: dict[str, Any], path: str) -> None:
    assert asked(tmp_path, given, "POST", path, hook=b"h-secret")[0] == "anyone"
    assert asked(tmp_path, given, "POST", path, hook=b"h-secret2")[0] == REFUSED


def test_the_secret_of_webhooks_opens_nothing_else(tmp_path: Path) -> None:
    assert asked(tmp_path, LOGIN | HOOK, "POST", "/predict", hook=b"h-secret")[0] == REFUSED
    assert asked(tmp_path, LOGIN | HOOK, "POST", "/predict", b"Bearer h-secret")[0] == REFUSED


def test_what_is_no_request_is_left_alone(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    nothing: Any = None
    asyncio.run(AccessGate(app, Settings(data_dir=tmp_path, **LOGIN))(scope, nothing, nothing))  # type: ignore[arg-type]
    assert seen == [scope]
