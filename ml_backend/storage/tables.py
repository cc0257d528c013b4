"""Every table of the backend.

There are no foreign keys between those of runs: a million checks would double the time of making a run, and every
change goes through `ml_backend.runs.ledger`, which locks the lease or the run first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, DateTime, Double, Index, Integer, LargeBinary, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from ml_backend.storage.database import Base

metadata = Base.metadata
"""For Alembic."""

_HELD = text("lease IS NOT NULL")
_UNDER_WAY = text("state IN ('preparing', 'active')")
_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what is called INTEGER


class ProjectRow(Base):
    """A project as ``/setup`` introduced it, and the adapter that was chosen for it."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    extra_params: Mapped[str] = mapped_column(Text, default="null")
    label_config: Mapped[str] = mapped_column(Text, default="")
    adapter: Mapped[str] = mapped_column(String(64), server_default="")
    updated_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now())


class ResultRow(Base):
    """A finished segmentation, packed by ``int_model.runner.results``."""

    __tablename__ = "results"

    image_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    prompt: Mapped[str] = mapped_column(String(200), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(200), primary_key=True)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    used_at: Mapped[float] = mapped_column(Double, index=True)


class AnnotationRow(Base):
    """An annotation of a person in its newest version; of a deleted one only that it is.

    ``result`` is JSON, or missing where it was too large to keep. ``created_at`` and ``updated_at`` are Label Studio's,
    ``received_at`` is by the database's clock; all in seconds since 1970.
    """

    __tablename__ = "annotations"
    __table_args__ = (Index("ix_annotations_received", "project", "received_at"),)

    project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task: Mapped[int | None] = mapped_column(BigInteger)
    result: Mapped[str | None] = mapped_column(Text)
    parent_prediction: Mapped[int | None] = mapped_column(BigInteger)
    model_version: Mapped[str] = mapped_column(String(200), server_default="")
    lead_time: Mapped[float | None] = mapped_column(Double)
    completed_by: Mapped[int | None] = mapped_column(BigInteger)
    was_cancelled: Mapped[bool] = mapped_column(Boolean, default=False)
    deleted: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[float | None] = mapped_column(Double)
    updated_at: Mapped[float | None] = mapped_column(Double)
    received_at: Mapped[float] = mapped_column(Double)


class RunRow(Base):
    """A run. The last six columns count its tasks by state, changed in the transaction that changes the tasks.

    ``kind`` is a `RunKind`, ``spec`` a `RunSpec` as JSON; times are seconds since 1970 by the database's clock.
    ``stage`` says in words what a run of few tasks is at.
    ``listed``: all its tasks are there. ``touched_at``: when its tasks were last added to while it was prepared.
    ``next_task``: where to look for pending tasks first; below it there are hardly ever any. Without it PostgreSQL
    would step over the dead index entries of all that was leased since its last vacuum.
    """

    __tablename__ = "runs"
    __table_args__ = (
        # Two runs of one kind and version on one project would do everything twice.
        Index(
            "ux_runs_under_way",
            "project",
            "kind",
            "model_version",
            unique=True,
            sqlite_where=_UNDER_WAY,
            postgresql_where=_UNDER_WAY,
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    project: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(12), server_default="predict")
    model_version: Mapped[str] = mapped_column(String(200))
    spec: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(12))
    why: Mapped[str] = mapped_column(Text, default="")
    stage: Mapped[str] = mapped_column(Text, server_default="")
    listed: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[float] = mapped_column(Double)
    touched_at: Mapped[float] = mapped_column(Double)
    finished_at: Mapped[float | None] = mapped_column(Double)
    next_task: Mapped[int] = mapped_column(BigInteger, default=0)
    pending: Mapped[int] = mapped_column(BigInteger, default=0)
    leased: Mapped[int] = mapped_column(BigInteger, default=0)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    abstained: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    skipped: Mapped[int] = mapped_column(BigInteger, default=0)


class TaskRow(Base):
    """A task of a run. ``lease`` is there exactly while its state is leased."""

    __tablename__ = "run_tasks"
    __table_args__ = (
        Index("ix_run_tasks_state", "run", "state", "task"),
        Index("ix_run_tasks_lease", "lease", sqlite_where=_HELD, postgresql_where=_HELD),
        {"sqlite_with_rowid": False},
    )

    run: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    task: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    state: Mapped[str] = mapped_column(String(12), server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    lease: Mapped[int | None] = mapped_column(BigInteger)
    score: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[str] = mapped_column(Text, server_default="")
    seconds: Mapped[float] = mapped_column(Double, server_default="0")
    prediction: Mapped[int | None] = mapped_column(BigInteger)


class LeaseRow(Base):
    """A lease. The fence is that this row is there: who takes tasks over removes it first. Its id is never reused."""

    __tablename__ = "run_leases"
    __table_args__ = (Index("ix_run_leases_run", "run", "expires_at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    run: Mapped[int] = mapped_column(BigInteger)
    owner: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[float] = mapped_column(Double)


class ThroughputRow(Base):
    """How many tasks of a run became final in one slot of a few seconds: the rate without looking at tasks."""

    __tablename__ = "run_throughput"

    run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tasks: Mapped[int] = mapped_column(BigInteger)


class AdapterRow(Base):
    """A version that a project learned: a bundle, with what the gate said. Rows are added, never changed.

    ``number`` counts a project's versions from 1; ``corrections`` is the digest of the annotations that it was learned
    from; ``manifest`` and ``report`` are JSON.
    """

    __tablename__ = "adapters"
    __table_args__ = (Index("ux_adapters_number", "project", "number", unique=True),)

    project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    accepted: Mapped[bool] = mapped_column(Boolean)
    parent: Mapped[str] = mapped_column(String(64))
    run: Mapped[int | None] = mapped_column(BigInteger)
    corrections: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(Text)
    report: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[float] = mapped_column(Double)


class PromotionRow(Base):
    """One change of what serves a project: from ``former`` to ``adapter``, "" for the models as they are."""

    __tablename__ = "promotions"
    __table_args__ = (Index("ix_promotions_project", "project", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    project: Mapped[int] = mapped_column(BigInteger)
    adapter: Mapped[str] = mapped_column(String(64))
    former: Mapped[str] = mapped_column(String(64))
    how: Mapped[str] = mapped_column(String(12))
    who: Mapped[str] = mapped_column(String(200))
    at: Mapped[float] = mapped_column(Double)


class ModelVersionRow(Base):
    """Which adapter stands behind a version string that predictions of a project carry."""

    __tablename__ = "model_versions"

    project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    model_version: Mapped[str] = mapped_column(String(200), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(64))
    since: Mapped[float] = mapped_column(Double)


class JournalRow(Base):
    """A finished step of a training, so that another process can go on with it."""

    __tablename__ = "training_journal"

    run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class ClickRow(Base):
    """One interactive call, in the order of the ids: what the annotator showed (JSON, pixels), the mask's digest."""

    __tablename__ = "clicks"
    __table_args__ = (Index("ix_clicks_task", "project", "task", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    project: Mapped[int] = mapped_column(BigInteger)
    task: Mapped[int] = mapped_column(BigInteger)
    label: Mapped[str] = mapped_column(String(200))
    prompt: Mapped[str] = mapped_column(Text)
    mask: Mapped[str] = mapped_column(String(64))
    model_version: Mapped[str] = mapped_column(String(200))
    at: Mapped[float] = mapped_column(Double)


class AuditRow(Base):
    """Who did what, and when. Triggers refuse to change or delete a row, and add one for every promotion."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_KEY, primary_key=True)
    at: Mapped[float] = mapped_column(Double)
    who: Mapped[str] = mapped_column(String(200))
    place: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(40))
    what: Mapped[str] = mapped_column(Text)


class ReviewRow(Base):
    """What a person thought of one image of a run: ``accept``, ``skip`` or ``wrong``, with a note."""

    __tablename__ = "reviews"

    run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    verdict: Mapped[str] = mapped_column(String(8))
    note: Mapped[str] = mapped_column(Text)
    who: Mapped[str] = mapped_column(String(200))
    at: Mapped[float] = mapped_column(Double)
