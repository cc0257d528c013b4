"""Who started, cancelled, took up again, undid and promoted what, and when. The database refuses to change it."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import insert, select

from ml_backend.settings import Settings
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import AuditRow

_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action, as it was asked for; whether it could be done is not said.

    Attributes:
        id: counts up.
        at: by the database's clock.
        who: name or role; ``anyone`` where no password is set.
        place: network address or machine that it came from, or "".
        action: start, cancel, resume, retry, undo, verify; connect, fix; promote, rollback.
        what: of which run or project.
    """

    id: int
    at: datetime
    who: str
    place: str
    action: str
    what: str


class Audit:
    """The log of actions. Blocking and safe between threads; every method may raise ``StoreError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, who: str, place: str, action: str, what: str) -> None:
        """Append an entry; do it before the action, so that no action is without one."""
        row = {"who": who[:200], "place": place[:200], "action": action[:40], "what": what[:_LONGEST]}
        with self._database.write() as connection:
            connection.execute(insert(AuditRow).values({**row, "at": epoch_now()}))

    def entries(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The newest entries, newest first; of those with a smaller id than ``before``."""
        wanted = select(AuditRow.__table__).order_by(AuditRow.id.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(AuditRow.id < before)
        with self._database.read() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [AuditEntry(**{**row, "at": datetime.fromtimestamp(row["at"], UTC)}) for row in rows]


def note_by_command(settings: Settings, action: str, what: str) -> None:
    """Write down what a command is about to do. Raises ``StoreError``; then nothing may be done."""
    database = Database.of(settings)
    try:
        Audit(database).note(*operator(), action, what)
    finally:
        database.close()


def operator() -> tuple[str, str]:
    """Who uses a command, and on which machine: for the log."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"user {name} of this machine", socket.gethostname()
