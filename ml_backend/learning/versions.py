"""Versions of what a project learned, in the database: added, never changed; one of them serves, or the base models.

Which one serves is ``projects.adapter``; every change of it is a row of ``promotions``, written in one transaction with
it, so that a process that dies leaves the one version or the other.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select, update

from int_model.learning.bundle import Manifest, bundle_id, read_manifest
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import AdapterRow, ModelVersionRow, ProjectRow, PromotionRow

_log = logging.getLogger(__name__)
BASE = "base"
"""The version that is always there: the models as they are."""

How = Literal["gate", "promote", "rollback"]
_SHOWN = [column for column in AdapterRow.__table__.columns if column.name != "payload"]


class VersionError(ValueError):
    """There is no such version, or it may not serve; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a project.

    Attributes:
        id: of the bundle's content, hexadecimal; "" for the base models.
        number: counts the project's versions from 1; 0 for the base models.
        accepted: whether the gate let it serve; one that it refused is kept with its report.
        parent: id of the version that served when it was trained, "" for the base models.
        run: id of the run that trained it, "" if none did.
        corrections: digest of the annotations that it was learned from.
        manifest: base, data, arm, settings, libraries, and the figures of candidate and parent as the gate saw them.
        report: what else the training reported.
        created_at: when it was added.
        serving: whether it serves the project now.
    """

    id: str
    number: int
    accepted: bool
    parent: str
    run: str
    corrections: str
    manifest: Manifest
    report: Mapping[str, Any]
    created_at: datetime
    serving: bool

    @property
    def name(self) -> str:
        """What people call it: ``v3``, or ``base``."""
        return f"v{self.number}" if self.number else BASE

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate refused it; () if it did not."""
        return tuple(map(str, self.manifest.figures.get("reasons", ())))


@dataclass(frozen=True, slots=True)
class Promotion:
    """A change of what serves: ids, "" for the base models; ``who`` is the gate, a person, or where they came from."""

    adapter: str
    former: str
    how: str
    who: str
    at: datetime


class Versions:
    """The versions of all projects. Blocking and safe between threads and processes; methods may raise ``StoreError``.

    Args:
        database: not closed here.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- reading

    def of_project(self, project: int) -> list[Version]:
        """A project's versions, newest first; the base models, which are always there, are not among them."""
        rows = select(*_SHOWN).where(AdapterRow.project == project).order_by(AdapterRow.number.desc())
        with self.database.read() as connection:
            serving = _serving(connection, project)
            return [_version(row, serving) for row in connection.execute(rows)]

    def show(self, project: int, which: str) -> Version:
        """One version by its name (``v3``, ``3``), its id or the beginning of it, or ``base``.

        Raises:
            VersionError: there is none, or several ids begin so.
        """
        wanted = which.strip().lower()
        known = self.of_project(project)
        if wanted in (BASE, "v0"):
            return self._base(project)
        by_name = [version for version in known if wanted in (version.name, str(version.number))]
        found = by_name or [version for version in known if wanted and version.id.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise VersionError(f"several versions of project {project} begin with '{wanted}'; give more of the id")
        names = ", ".join([*(version.name for version in reversed(known)), BASE])
        raise VersionError(f"project {project} has no version '{which}'; it has: {names}")

    def serving(self, project: int) -> Version:
        """What serves a project now; the base models if nothing was promoted, or the adapter is no version of ours."""
        return next((version for version in self.of_project(project) if version.serving), None) or self._base(project)

    def payload(self, adapter: str) -> bytes | None:
        """The bundle of that id, or None: it is in no project."""
        with self.database.read() as connection:
            return connection.scalar(select(AdapterRow.payload).where(AdapterRow.id == adapter).limit(1))

    def trained_on(self, adapter: str) -> str | None:
        """The fingerprint of the segmenter that a version was trained on, or None: there is no such version."""
        with self.database.read() as connection:
            text = connection.scalar(select(AdapterRow.manifest).where(AdapterRow.id == adapter).limit(1))
        return None if text is None else str(json.loads(text)["base"])

    def of_run(self, run: str) -> Version | None:
        """What a training run came to, if it came to its end."""
        with self.database.read() as connection:
            row = connection.execute(select(*_SHOWN).where(AdapterRow.run == int(run))).first()
            return None if row is None else _version(row, _serving(connection, row.project))

    def history(self, project: int) -> list[Promotion]:
        """Every change of what serves, newest first."""
        rows = select(PromotionRow.__table__).where(PromotionRow.project == project).order_by(PromotionRow.id.desc())
        with self.database.read() as connection:
            return [
                Promotion(row.adapter, row.former, row.how, row.who, _moment(row.at))
                for row in connection.execute(rows)
            ]

    # --- adding and choosing

    def add(
        self,
        project: int,
        bundle: bytes,
        *,
        accepted: bool,
        report: Mapping[str, Any] | None = None,
        run: str = "",
        corrections: str = "",
        serve: bool = False,
    ) -> Version:
        """Keep a bundle as the project's next version; the same bundle again changes nothing.

        Args:
            project: Label Studio's id.
            bundle: see ``int_model.learning.bundle.pack``.
            accepted: whether the gate lets it serve.
            report: whatever JSON can hold.
            run: id of the run that trained it.
            corrections: digest of the annotations behind it.
            serve: let it serve from now on, if its parent still does; in the same transaction.

        Raises:
            BundleError: the bytes are no bundle.
        """
        manifest = read_manifest(bundle)
        key = bundle_id(bundle)
        with self.database.write() as connection:
            serving = self._lock(connection, project)
            mine = AdapterRow.project == project
            if connection.scalar(select(AdapterRow.number).where(mine, AdapterRow.id == key)) is None:
                values = {
                    "project": project,
                    "id": key,
                    "number": (connection.scalar(select(func.max(AdapterRow.number)).where(mine)) or 0) + 1,
                    "accepted": accepted,
                    "parent": manifest.parent,
                    "run": int(run) if run else None,
                    "corrections": corrections,
                    "manifest": json.dumps({**asdict(manifest), "adaptation": {}}),
                    "report": json.dumps(dict(report or {})),
                    "payload": bundle,
                    "created_at": epoch_now(),
                }
                connection.execute(insert(AdapterRow).values(values))
                if serve and serving == manifest.parent:
                    self._choose(connection, project, serving, key, "gate", "the gate")
        return self.show(project, key)

    def promote(self, project: int, which: str, *, who: str, base: str = "", force: bool = False) -> Version:
        """Let a version serve from the next request on. The one that serves already: nothing happens.

        Args:
            project: Label Studio's id.
            which: see `show`.
            who: for the history.
            base: fingerprint of the segmenter that serves; "" leaves it to the serving process to refuse another one.
            force: also a version that the gate refused.

        Raises:
            VersionError: there is none, the gate refused it, or it was trained on another segmenter.
        """
        version = self.show(project, which)
        if version.number and base and version.manifest.base != base:
            raise VersionError(
                f"{version.name} was trained on another segmenter ({version.manifest.base}, serving is {base}): choose "
                "the profile that it was trained with, or train again"
            )
        if version.number and not version.accepted and not force:
            why = "; ".join(version.reasons) or "it showed no gain"
            raise VersionError(f"the gate refused {version.name} ({why}); use --force to let it serve all the same")
        return self._move(project, version.id, "promote", who)

    def rollback(self, project: int, *, who: str) -> Version:
        """Let serve again what served before the present version was promoted: another version, or the base models.

        Raises:
            VersionError: the base models serve already.
        """
        with self.database.write() as connection:
            serving = self._lock(connection, project)
            if not serving:
                raise VersionError(f"the base models serve project {project}; there is nothing to roll back to")
            former = select(PromotionRow.former).where(
                PromotionRow.project == project, PromotionRow.adapter == serving, PromotionRow.how != "rollback"
            )
            target = connection.scalar(former.order_by(PromotionRow.id.desc()).limit(1)) or ""
            self._choose(connection, project, serving, target, "rollback", who)
        return self.serving(project)

    # --- version strings

    def name(self, project: int, model_version: str, adapter: str) -> None:
        """Remember which adapter stands behind the version string that predictions carry."""
        row = {"project": project, "model_version": model_version, "adapter": adapter, "since": epoch_now()}
        with self.database.write() as connection:
            connection.execute(self.database.upsert(ModelVersionRow, row, {"adapter": adapter}))

    def names(self, project: int, adapter: str) -> list[str]:
        """The version strings that predictions of a version carry, oldest first; several if settings were changed."""
        mine = (ModelVersionRow.project == project, ModelVersionRow.adapter == adapter)
        rows = select(ModelVersionRow.model_version).where(*mine).order_by(ModelVersionRow.since)
        with self.database.read() as connection:
            return [str(text) for text in connection.scalars(rows)]

    # --- inside

    def _base(self, project: int) -> Version:
        with self.database.read() as connection:
            serving = _serving(connection, project)
        return Version("", 0, True, "", "", "", Manifest("", "", BASE), {}, datetime.fromtimestamp(0, UTC), not serving)

    def _move(self, project: int, adapter: str, how: How, who: str) -> Version:
        with self.database.write() as connection:
            serving = self._lock(connection, project)
            if serving != adapter:
                self._choose(connection, project, serving, adapter, how, who)
        return self.serving(project)

    def _lock(self, connection: Connection, project: int) -> str:
        """The adapter that serves; until the transaction ends nobody else changes it."""
        row = {"id": str(project), "extra_params": "null", "label_config": "", "adapter": ""}
        connection.execute(self.database.upsert(ProjectRow, row, {"adapter": ProjectRow.adapter}))
        return _serving(connection, project)

    def _choose(self, connection: Connection, project: int, former: str, adapter: str, how: How, who: str) -> None:
        connection.execute(update(ProjectRow).where(ProjectRow.id == str(project)).values(adapter=adapter))
        change = {"project": project, "adapter": adapter, "former": former, "how": how, "who": who[:200]}
        connection.execute(insert(PromotionRow).values({**change, "at": epoch_now()}))
        _log.info("project %d: %s serves instead of %s (%s, by %s)", project, adapter or BASE, former or BASE, how, who)


def _serving(connection: Connection, project: int) -> str:
    return connection.scalar(select(ProjectRow.adapter).where(ProjectRow.id == str(project))) or ""


def _version(row: Row[Any], serving: str) -> Version:
    manifest = Manifest(**json.loads(row.manifest))
    return Version(
        id=row.id,
        number=row.number,
        accepted=row.accepted,
        parent=row.parent,
        run="" if row.run is None else str(row.run),
        corrections=row.corrections,
        manifest=manifest,
        report=json.loads(row.report),
        created_at=_moment(row.created_at),
        serving=row.id == serving,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
