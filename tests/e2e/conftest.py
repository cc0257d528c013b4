"""One real Label Studio and one real backend for the whole client."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page

from ml_backend.demo.backend import start_backend
from ml_backend.demo.client import TIMEOUT, DemoClient, sign_in
from ml_backend.demo.processes import free_port, group_members
from ml_backend.demo.server import LabelStudioServer, ensure_environment
from tests.e2e.browser import log_in, open_page

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "artifacts"
LOGS = ARTIFACTS / "logs" / os.environ.get("PYTEST_XDIST_WORKER", "")  # each process has servers of its own


@dataclass(frozen=True)
class World:
    """A client of Label Studio, where it keeps uploads, a backend that it can reach, and that one's data folder."""

    server: LabelStudioServer
    client: DemoClient
    media: Path
    backend: str
    data: Path


@pytest.fixture(scope="session", autouse=True)
def _terminated_tests_clean_up() -> Iterator[None]:
    """SIGTERM (a time limit, say) ends the session as Ctrl-C does: servers are stopped, not orphaned."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def label_studio_program() -> Path:
    return ensure_environment(ROOT / ".venv-label-studio", log=LOGS / "install.log", tell=lambda text: None)


@pytest.fixture(scope="session")
def label_studio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label-studio")


@pytest.fixture(scope="session")
def label_studio(label_studio_program: Path, label_studio_folder: Path) -> Iterator[LabelStudioServer]:
    server = LabelStudioServer.start(
        label_studio_program,
        folder=label_studio_folder,
        log=LOGS / "label-studio.log",
        port=free_port(),
        email="e2e@example.com",
        password=secrets.token_urlsafe(12),
    )
    try:
        yield server
    finally:
        server.child.stop()
    assert group_members(server.child.process.pid) == []


@dataclass(frozen=True)
class Login:
    """A client and its user's one personal access token."""

    client: DemoClient
    token: str


@pytest.fixture(scope="session")
def login(label_studio: LabelStudioServer) -> Iterator[Login]:
    token = sign_in(label_studio.url, label_studio.email, label_studio.password)
    with DemoClient(label_studio.url, token, timeout=TIMEOUT) as client:
        yield Login(client, token)


@pytest.fixture(scope="session")
def world(
    label_studio: LabelStudioServer,
    label_studio_folder: Path,
    login: Login,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    data = tmp_path_factory.mktemp("backend")
    child, backend = start_backend(
        port=free_port(),
        profile="nano",
        label_studio_url=label_studio.url,
        token=login.token,
        folder=data,
        log=LOGS / "backend.log",
    )
    try:
        yield World(label_studio, login.client, label_studio_folder / "media", backend, data)
    finally:
        child.stop()
    assert group_members(child.process.pid) == []


@pytest.fixture(scope="module")
def page(label_studio: LabelStudioServer) -> Iterator[Page]:
    """A Chromium page, logged in. Not for the session: Playwright's event loop would run on in every later test."""
    with open_page(label_studio.url) as opened:
        log_in(opened, label_studio.url, label_studio.email, label_studio.password)
        yield opened
