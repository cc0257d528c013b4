"""What was learned is kept, with who let it serve; the journal of trainings, and the clicks that annotators made."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TABLES = ("clicks", "training_journal", "model_versions", "promotions", "adapters")


def upgrade() -> None:
    """Add the tables; every row is kept."""
    op.add_column("runs", sa.Column("stage", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "adapters",
        sa.Column("project", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("parent", sa.String(64), nullable=False),
        sa.Column("run", sa.BigInteger),
        sa.Column("corrections", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ux_adapters_number", "adapters", ["project", "number"], unique=True)
    op.create_table(
        "promotions",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("project", sa.BigInteger, nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("former", sa.String(64), nullable=False),
        sa.Column("how", sa.String(12), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_promotions_project", "promotions", ["project", "id"])
    op.create_table(
        "model_versions",
        sa.Column("project", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model_version", sa.String(200), primary_key=True),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
    )
    op.create_table(
        "training_journal",
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "clicks",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("project", sa.BigInteger, nullable=False),
        sa.Column("task", sa.BigInteger, nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("mask", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_clicks_task", "clicks", ["project", "task", "id"])


def downgrade() -> None:
    """Drop what was learned; projects go back to the models as they are."""
    for name in _TABLES:
        op.drop_table(name)
    op.execute("UPDATE projects SET adapter = ''")
    op.drop_column("runs", "stage")
