"""What outlives the process: projects as Label Studio introduced them, and results by image, prompt and version."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from int_model.runner.store import ResultKey
from ml_backend.storage.database import Database
from ml_backend.storage.tables import ProjectRow, ResultRow

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Project:
    """A project: its id, extra params as they came, labeling config, and what was chosen for it here.

    ``adapter`` is the id of what the project learned on top of the models, "" for the models as they are.
    """

    id: str
    extra_params: Any = None
    label_config: str = ""
    adapter: str = ""


class Store:
    """Projects and results in the database. Blocking and safe between threads; every method may raise `StoreError`.

    Args:
        database: closed with the store. ``store.database`` serves others meanwhile, the ledger of runs first.
        cache_entries: most results kept; those used longest ago go first.
    """

    def __init__(self, database: Database, *, cache_entries: int = 20_000) -> None:
        self.database = database
        self._entries = cache_entries
        self._writes = 0
        self._lock = threading.Lock()

    @classmethod
    def in_folder(cls, folder: Path, *, cache_entries: int = 20_000) -> Store:
        """The SQLite database of a data folder, which is made if it is not there."""
        return cls(Database.in_folder(folder), cache_entries=cache_entries)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def save_project(self, project: Project) -> None:
        """Insert a project, or replace what Label Studio says of it: the adapter stays."""
        values = {
            "id": project.id,
            "extra_params": json.dumps(project.extra_params),
            "label_config": project.label_config,
            "updated_at": func.now(),
        }
        with self.database.write() as connection:
            connection.execute(self.database.upsert(ProjectRow, values))

    def projects(self) -> list[Project]:
        """All projects."""
        with self.database.read() as connection, Session(connection) as session:
            rows = session.scalars(select(ProjectRow).order_by(ProjectRow.id)).all()
            return [Project(r.id, json.loads(r.extra_params), r.label_config, r.adapter) for r in rows]

    def newest_projects(self, most: int) -> list[Project]:
        """Those that changed last, the newest first; the others go, but for those with an adapter."""
        newest = select(ProjectRow.id).order_by(ProjectRow.updated_at.desc(), ProjectRow.id.desc()).limit(most)
        with self.database.write() as connection:
            ids = connection.scalars(newest).all()
            if len(ids) == most:
                kept = select(newest.subquery().c.id)
                connection.execute(delete(ProjectRow).where(ProjectRow.adapter == "", ProjectRow.id.not_in(kept)))
        order = {key: place for place, key in enumerate(ids)}
        found = [project for project in self.projects() if project.id in order]
        return sorted(found, key=lambda project: order[project.id])

    def forget_projects(self, ids: Sequence[str]) -> None:
        """What Label Studio said of them; those with an adapter stay."""
        if ids:
            with self.database.write() as connection:
                connection.execute(delete(ProjectRow).where(ProjectRow.adapter == "", ProjectRow.id.in_(ids)))

    def adapter_of(self, project: str) -> str:
        """The adapter that was chosen for a project; "" for the models as they are, or an unknown project."""
        with self.database.read() as connection:
            return connection.scalar(select(ProjectRow.adapter).where(ProjectRow.id == project)) or ""

    def choose_adapter(self, project: str, adapter: str) -> None:
        """Let the plans of a project use this adapter from now on; "" for the models as they are."""
        row = {"id": project, "extra_params": "null", "label_config": "", "adapter": adapter}
        with self.database.write() as connection:
            connection.execute(self.database.upsert(ProjectRow, row, {"adapter": adapter}))

    def get_result(self, key: ResultKey) -> bytes | None:
        """A stored result, packed, or None."""
        where = (
            ResultRow.image_sha256 == key.image,
            ResultRow.prompt == _short(key.prompt),
            ResultRow.model_version == key.identity,
        )
        with self.database.read() as connection:
            payload = connection.scalar(select(ResultRow.payload).where(*where))
        if payload is not None:
            with self.database.write() as connection:
                connection.execute(update(ResultRow).where(*where).values(used_at=time.time()))
        return payload

    def put_result(self, key: ResultKey, payload: bytes) -> None:
        """Insert or replace a result; now and then the oldest beyond the limit go."""
        if self._entries == 0:
            return
        values = {
            "image_sha256": key.image,
            "prompt": _short(key.prompt),
            "model_version": key.identity,
            "payload": payload,
            "used_at": time.time(),
        }
        with self.database.write() as connection:
            connection.execute(self.database.upsert(ResultRow, values))
        with self._lock:
            self._writes += 1
            due = self._writes % min(64, self._entries) == 0
        if due:
            self._prune()

    def _prune(self) -> None:
        with self.database.write() as connection:
            edge = connection.scalar(
                select(ResultRow.used_at).order_by(ResultRow.used_at.desc()).offset(self._entries).limit(1)
            )
            if edge is not None:
                connection.execute(delete(ResultRow).where(ResultRow.used_at <= edge))


def _short(prompt: str) -> str:
    """The prompt as a key: a long one by its digest, as PostgreSQL's keys must be short."""
    return prompt if len(prompt) <= _LONGEST else f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}"
