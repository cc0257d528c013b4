"""The database: opened, guarded, and brought to the newest tables.

SQLite in the data folder by default, PostgreSQL by ``DATABASE_URL``. Everything that compares times takes the
database's clock (`epoch_now`), so that the clocks of workers on other machines play no part.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import URL, ColumnElement, Connection, Engine, Executable, Float, Table, create_engine, event, make_url
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.functions import FunctionElement
from tenacity import Retrying, retry_if_exception, stop_after_delay

from ml_backend.backoff import Backoff
from ml_backend.storage.migrations import MigrationError, migrate

if TYPE_CHECKING:
    from ml_backend.settings import Settings

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PASSING = ("locked", "disk is full")  # SQLite's words
_NOT_PASSING = ("authentication", "does not exist", "no pg_hba.conf entry", "permission denied")  # PostgreSQL's
_LITTLE_SPACE = 4 * 1024 * 1024
_LOCK_SECONDS = 20  # SQLite: how long a writer waits for others; each holds the lock for milliseconds


class StoreError(RuntimeError):
    """The database cannot be used; the message names the remedy.

    Attributes:
        transient: whether it may be usable again without anybody changing the settings: the server is away or starts,
            the file is locked, the disk is full.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class Base(DeclarativeBase):
    """All tables of the backend."""


class epoch_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """Seconds since 1970 by the database's clock, with fractions, when the statement began."""

    type = Float()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Stable within a statement, so that an index serves; `now()` would be the time before a wait for a lock.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


class Database:
    """A database whose tables are those of this version of the backend. Blocking, and safe between threads.

    Several processes may open a new or an old database at once: one of them migrates, the others wait.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        migrated: bring the tables to this version; otherwise nothing is touched until the first transaction.

    Raises:
        StoreError: the address is wrong, the database cannot be reached or written, or a newer version made it.
    """

    def __init__(self, url: str, *, migrated: bool = True) -> None:
        address = _address(url)
        self.is_sqlite = address.drivername == "sqlite"
        self._remedy = (
            "check INT_DATA_DIR and its free space"
            if self.is_sqlite
            else "check DATABASE_URL and that the PostgreSQL server runs"
        )
        self._file = Path(address.database) if self.is_sqlite and address.database not in (None, ":memory:") else None
        self._known: tuple[int, int] | None = None
        with self.guard():
            self._engine = _sqlite(address) if self.is_sqlite else _postgresql(address)
            self._writing = self._engine.execution_options(int_writes=True)
        if migrated:
            self._migrate()
            self._known = _identity(self._file)

    @classmethod
    def in_folder(cls, folder: Path) -> Database:
        """The SQLite database of a data folder, which is made if it is not there."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the data folder {folder} cannot be made ({error.strerror}); set INT_DATA_DIR") from error
        file = folder / "backend.sqlite3"
        _keep_private(file)
        return cls(f"sqlite:///{file}")

    @classmethod
    def of(cls, settings: Settings) -> Database:
        """The database of the settings: ``DATABASE_URL``, else the SQLite file in the data folder."""
        if settings.database_url is not None and settings.database_url.get_secret_value():
            return cls(settings.database_url.get_secret_value())
        return cls.in_folder(settings.data_dir)

    @property
    def where(self) -> str:
        """The address for people, without the password."""
        return self._engine.url.render_as_string(hide_password=True)

    def trouble(self) -> tuple[str, str] | None:
        """What is wrong with the file's place, and the remedy: it is gone, or its disk is full. Answers at once.

        None if nothing is, and for PostgreSQL.
        """
        if self._file is None or self._known is None:
            return None
        if _identity(self._file) != self._known:
            gone = f"the database {self._file} was deleted or replaced while it was in use; what is written is lost"
            return gone, "stop this program, put the data folder back, and start it again"
        free = shutil.disk_usage(self._file.parent).free
        if free < _LITTLE_SPACE:
            return f"the disk of the data folder {self._file.parent} is full ({free} bytes are free)", "make room"
        return None

    def _must_be_there(self) -> None:
        if self._known is not None and _identity(self._file) != self._known and (trouble := self.trouble()):
            raise StoreError("; ".join(trouble))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        self._must_be_there()
        with self.guard(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; all of it, or nothing if the block raises. Keep it short.

        On SQLite it holds the one write lock from its beginning, so that what it reads stays true until it writes.
        """
        self._must_be_there()
        with self.guard(), self._writing.begin() as connection:
            yield connection
        self._must_be_there()  # else it went into a file without a name

    def upsert(
        self,
        row: type[Base],
        values: Mapping[str, Any],
        changes: Mapping[str, Any] | None = None,
        *,
        where: ColumnElement[bool] | None = None,
    ) -> Executable:
        """The statement that inserts a row, or changes the one of the same key: also when two do so at once.

        Args:
            row: of which table.
            values: of the new row, its key included.
            changes: of a row that is there; all of ``values`` if None.
            where: a row that is there stays as it is unless this is true of it.
        """
        table = cast("Table", row.__table__)
        make = insert_sqlite if self.is_sqlite else insert_postgresql
        key = [column.name for column in table.primary_key]
        new = changes or {name: value for name, value in values.items() if name not in key}
        return make(table).values(dict(values)).on_conflict_do_update(index_elements=key, set_=new, where=where)

    def _migrate(self) -> None:
        try:
            with self.write() as connection:
                migrate(connection)
        except MigrationError as error:
            self._engine.dispose()
            raise StoreError(str(error)) from error
        except StoreError:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the library's errors into ``StoreError``, which names the remedy and never the password."""
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            passing = isinstance(error, OperationalError | InterfaceError | PoolTimeout) and self._passes(reason)
            raise StoreError(f"the database cannot be used ({reason}); {self._remedy}", transient=passing) from error

    def _passes(self, reason: str) -> bool:
        """Whether such an error of the connection may pass by itself."""
        if self.is_sqlite:
            return any(words in reason for words in _PASSING)
        return not any(words in reason for words in _NOT_PASSING)


def _identity(file: Path | None) -> tuple[int, int] | None:
    """What a file is told apart by; None if there is none of that name."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _keep_private(file: Path) -> None:
    """Let nobody else read a database, which is made if it is not there; SQLite's files beside it take its mode."""
    with suppress(OSError):  # another's, or on a file system without modes; what is really wrong, SQLite says
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        for own in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
            if own.exists():
                own.chmod(0o600)


def _address(url: str) -> URL:
    expected = "DATABASE_URL must read postgresql://USER:PASSWORD@HOST:5432/NAME or sqlite:///FILE"
    try:
        address = make_url(url.strip())
        return address.set(drivername=_DRIVERS[address.drivername])
    except (ArgumentError, ValueError):  # whose own messages may repeat the password
        raise StoreError(expected) from None
    except KeyError as error:
        raise StoreError(f"{expected}, not {error.args[0]}://") from None


def _postgresql(address: URL) -> Engine:
    # Checked before use: a server that was restarted costs no request.
    options = {"connect_timeout": "10", "application_name": "int-backend"}
    return create_engine(address.update_query_dict({**options, **address.query}), pool_pre_ping=True)


def _use_wal(cursor: Any) -> None:
    """WAL lets readers read while one writes. The file keeps it, so only the first to open a new file switches.

    SQLite does not wait for a lock when it switches, whatever the busy timeout: two who open a new file at once would
    fail, so we wait ourselves.
    """

    def is_busy(error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in _BUSY

    def switch() -> None:
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode=WAL")

    wait, stop = Backoff(0.02, 0.2), stop_after_delay(_LOCK_SECONDS)
    Retrying(retry=retry_if_exception(is_busy), wait=wait, stop=stop, reraise=True)(switch)


def _sqlite(address: URL) -> Engine:
    engine = create_engine(address)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `_begin` does
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_LOCK_SECONDS * 1000}")
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("int_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
