"""Basic auth, the webhook's secret, and bodies that are too long."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import (
    Backend,
    backend,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(tmp_path_factory.mktemp("data")) as running:
        yield running


# --- auth and size ----------------------------------------------------------------------------------------------------

USER, PASSWORD = "schlüssel", "pass:wörd"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backend(
        tmp_path_factory.mktemp("locked"),
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
        webhook_secret="hook",
        max_body_bytes=2048,
    ) as running:
        yield running


def basic(text: bytes) -> str:

    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic %%%",
        "Bearer abc",
        "Token x",
        "basic",
        basic(b"x:y"),
        basic(b"\xff\xfe"),
        basic(USER.encode()),
        basic(f"{USER}:wrong".encode()),
        "Basic \xff\xfe",
        "ü:ü",
    ],
)
@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/docs", "/openapi.json", "/nope"])
def test_wrong_credentials_are_401(locked: Backend, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = locked.client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert set(answer.json()) == {"id", "error", "cure"}


def test_right_credentials_open_everything(locked: Backend) -> None:
    headers = {"Authorization": basic(f"{USER}:{PASSWORD}".encode())}
    assert locked.client.get("/health", headers=headers).status_code == 200
    assert locked.client.post("/setup", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize(("secret", "status"), [(None, 401), ("wrong", 401), ("hook", 200)])
def test_webhooks_bring_their_secret(locked: Backend, secret: str | None, status: int) -> None:
    headers = {} if secret is None else {"X-Webhook-Secret": secret}
    assert locked.client.post("/webhook", json={}, headers=headers).status_code == status


def test_long_bodies_are_413(locked: Backend) -> None:
    headers = {"Authorization": basic(f"{USER}:{PASSWORD}".encode()), "Content-Type": "application/json"}
    answer = locked.client.post("/setup", headers=headers, content=b"x" * 3000)
    assert answer.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    assert locked.client.post("/setup", headers=headers, content=endless()).status_code == 413


def test_health_may_be_open(tmp_path: Path) -> None:
    with backend(tmp_path, basic_auth_user="u", basic_auth_pass="p", open_health=True) as running:
        assert running.client.get("/health").status_code == 200
        assert running.client.get("/metrics").status_code == 401
