"""Projects and results, as they were before there were migrations: tables that exist are adopted."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the two tables where they are missing."""
    op.create_table(
        "projects",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("extra_params", sa.Text, nullable=False),
        sa.Column("label_config", sa.Text, nullable=False),
        sa.Column("label_config_hash", sa.String(64), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        if_not_exists=True,
    )
    op.create_table(
        "results",
        sa.Column("image_sha256", sa.String(64), primary_key=True),
        sa.Column("prompt", sa.String(200), primary_key=True),
        sa.Column("model_version", sa.String(200), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_results_used_at", "results", ["used_at"], if_not_exists=True)


def downgrade() -> None:
    """Drop both."""
    op.drop_table("results")
    op.drop_table("projects")
