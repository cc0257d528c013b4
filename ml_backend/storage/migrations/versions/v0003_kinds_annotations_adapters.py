"""Projects lose a column that was never read; the throughput of runs gets the name that the code uses."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Change the tables in place; every row is kept."""
    op.rename_table("run_pace", "run_throughput")
    op.drop_column("projects", "label_config_hash")


def downgrade() -> None:
    """Change them back."""
    op.add_column("projects", sa.Column("label_config_hash", sa.String(64), nullable=False, server_default=""))
    op.rename_table("run_throughput", "run_pace")
