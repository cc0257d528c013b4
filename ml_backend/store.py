"""What outlives the process: projects as Label Studio introduced them, and results by image, prompt and version."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Engine, LargeBinary, String, Text, create_engine, delete, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class StoreError(RuntimeError):
    """The database cannot be used; the message names the cure."""


class Base(DeclarativeBase):
    """All tables of the backend."""


class ProjectRow(Base):
    """A project as ``/setup`` introduced it."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    extra_params: Mapped[str] = mapped_column(Text, default="null")
    label_config: Mapped[str] = mapped_column(Text, default="")
    label_config_hash: Mapped[str] = mapped_column(String(64), default="")
    updated_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now())


class ResultRow(Base):
    """A finished segmentation, packed by ``ml_backend.findings``."""

    __tablename__ = "results"

    image_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    prompt: Mapped[str] = mapped_column(String(200), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(200), primary_key=True)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    used_at: Mapped[float] = mapped_column(index=True)


@dataclass(frozen=True, slots=True)
class Project:
    """A project: its id, extra params as they came, labeling config and that config's hash."""

    id: str
    extra_params: Any = None
    label_config: str = ""
    label_config_hash: str = ""


class Store:
    """The database in the data folder. Blocking and safe between threads.

    Args:
        url: SQLAlchemy address; `Store.in_folder` makes the usual one.
        cache_entries: most results kept; those used longest ago go first.

    Raises:
        StoreError: the database cannot be opened or written.
    """

    def __init__(self, url: str, *, cache_entries: int = 20_000) -> None:
        self._entries = cache_entries
        self._writes = 0
        self._lock = threading.Lock()
        self._engine = _open(url)
        with self._guard():
            Base.metadata.create_all(self._engine)

    @classmethod
    def in_folder(cls, folder: Path, *, cache_entries: int = 20_000) -> Store:
        """The SQLite database of a data folder, which is made if it is not there."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the data folder {folder} cannot be made ({error.strerror}); set INT_DATA_DIR") from error
        return cls(f"sqlite:///{folder / 'backend.sqlite3'}", cache_entries=cache_entries)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def save_project(self, project: Project) -> None:
        """Insert or replace a project."""
        with self._guard(), Session(self._engine) as session, session.begin():
            session.merge(
                ProjectRow(
                    id=project.id,
                    extra_params=json.dumps(project.extra_params),
                    label_config=project.label_config,
                    label_config_hash=project.label_config_hash,
                )
            )

    def projects(self) -> list[Project]:
        """All projects."""
        with self._guard(), Session(self._engine) as session:
            rows = session.scalars(select(ProjectRow)).all()
            return [Project(r.id, json.loads(r.extra_params), r.label_config, r.label_config_hash) for r in rows]

    def get_result(self, image_sha256: str, prompt: str, model_version: str) -> bytes | None:
        """A stored result, or None."""
        with self._guard(), Session(self._engine) as session, session.begin():
            row = session.get(ResultRow, (image_sha256, prompt, model_version))
            if row is None:
                return None
            row.used_at = time.time()
            return row.payload

    def put_result(self, image_sha256: str, prompt: str, model_version: str, payload: bytes) -> None:
        """Insert or replace a result; now and then the oldest beyond the limit go."""
        if self._entries == 0:
            return
        row = ResultRow(
            image_sha256=image_sha256,
            prompt=prompt,
            model_version=model_version,
            payload=payload,
            used_at=time.time(),
        )
        with self._guard(), Session(self._engine) as session, session.begin():
            session.merge(row)
        with self._lock:
            self._writes += 1
            due = self._writes % min(64, self._entries) == 0
        if due:
            self._prune()

    def count_results(self) -> int:
        """How many results are kept."""
        with self._guard(), Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(ResultRow)) or 0

    def _prune(self) -> None:
        with self._guard(), Session(self._engine) as session, session.begin():
            edge = session.scalar(
                select(ResultRow.used_at).order_by(ResultRow.used_at.desc()).offset(self._entries).limit(1)
            )
            if edge is not None:
                session.execute(delete(ResultRow).where(ResultRow.used_at <= edge))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StoreError(
                f"the database cannot be used ({reason}); check INT_DATA_DIR and its free space"
            ) from error


def _open(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            # WAL lets readers read while one writes; a lock is waited for, but not for long.
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.execute("PRAGMA busy_timeout=2000")
            cursor.close()

    return engine
