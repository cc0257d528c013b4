"""Every test of the ledger runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml_backend.storage.database import Database
from tests.support.postgres import ABSENT, Server, find_binaries, postgres_server
from tests.support.waiting import required


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for the session. Without its programs the tests are skipped, and fail under ``CI=true``."""
    with postgres_server(required(find_binaries(), ABSENT)) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'backend.sqlite3'}"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Database]]:
    """Opens that database, again and again if asked."""
    made: list[Database] = []

    def open_it() -> Database:
        made.append(Database(url))
        return made[-1]

    yield open_it
    for database in made:
        database.close()


@pytest.fixture
def database(opened: Callable[[], Database]) -> Database:
    """That database, opened."""
    return opened()
