"""Batch runs: runs, their tasks, leases, and the pace of each run."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_STATES = ("pending", "leased", "done", "abstained", "failed", "skipped")
_UNDER_WAY = sa.text("state IN ('preparing', 'active')")


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("project", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("listed", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("touched_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("next_task", sa.BigInteger, nullable=False),
        *(sa.Column(state, sa.BigInteger, nullable=False) for state in _STATES),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ux_runs_under_way",
        "runs",
        ["project", "model_version"],
        unique=True,
        sqlite_where=_UNDER_WAY,
        postgresql_where=_UNDER_WAY,
    )
    op.create_table(
        "run_tasks",
        sa.Column("run", sa.BigInteger, primary_key=True),
        sa.Column("task", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.String(12), nullable=False, server_default="pending"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease", sa.BigInteger),
        sa.Column("score", sa.Double),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("seconds", sa.Double, nullable=False, server_default="0"),
        sa.Column("prediction", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_run_tasks_state", "run_tasks", ["run", "state", "task"])
    held = sa.text("lease IS NOT NULL")
    op.create_index("ix_run_tasks_lease", "run_tasks", ["lease"], sqlite_where=held, postgresql_where=held)
    op.create_table(
        "run_leases",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_leases_run", "run_leases", ["run", "expires_at"])
    op.create_table(
        "run_pace",
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tasks", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop all four."""
    for table in ("run_pace", "run_leases", "run_tasks", "runs"):
        op.drop_table(table)
