"""The tables' history, applied with Alembic whenever a database is opened."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

FOLDER = Path(__file__).parent
_LOCK = 7_201_184_301  # any number that means "the backend migrates" to PostgreSQL's advisory locks


class MigrationError(RuntimeError):
    """The tables cannot be brought to this version; the message names the remedy."""


def config() -> Config:
    """Alembic's configuration, without a file."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest version, within the connection's open transaction.

    Whoever comes second waits: SQLite by its write lock (the transaction must hold it), PostgreSQL by an advisory
    lock. Tables made before there were migrations are adopted as they are.

    Raises:
        MigrationError: the tables are of a version that this program does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    made = config()
    made.attributes["connection"] = connection
    try:
        command.upgrade(made, "head")
    except CommandError as error:
        raise MigrationError(
            "the database was made by a newer version of int-backend; upgrade int-backend, or use another database"
        ) from error
