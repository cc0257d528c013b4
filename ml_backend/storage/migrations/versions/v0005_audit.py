"""A log of who did what, which the database refuses to change; promotions write themselves into it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_REFUSED = "the audit log is append-only"
_PROMOTED = (
    "INSERT INTO audit (at, who, place, action, what) VALUES (NEW.at, NEW.who, '', NEW.how, "
    "'project ' || NEW.project || ': from ' || coalesce(nullif(NEW.former, ''), 'the base models') "
    "|| ' to ' || coalesce(nullif(NEW.adapter, ''), 'the base models'))"
)
_SQLITE = (
    f"CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END",
    f"CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END",
    f"CREATE TRIGGER audit_promotion AFTER INSERT ON promotions BEGIN {_PROMOTED}; END",
)
_POSTGRESQL = (
    f"CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$",
    f"CREATE FUNCTION audit_promoted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_PROMOTED}; RETURN NEW; END $$",
    "CREATE TRIGGER audit_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_promotion AFTER INSERT ON promotions FOR EACH ROW EXECUTE FUNCTION audit_promoted()",
)


def upgrade() -> None:
    """Add the table and what guards it."""
    op.create_table(
        "audit",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("place", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    for statement in _SQLITE if _is_sqlite() else _POSTGRESQL:
        op.execute(sa.text(statement.replace(":", "\\:")))


def downgrade() -> None:
    """Drop the log."""
    if _is_sqlite():
        op.execute("DROP TRIGGER audit_promotion")
    else:
        op.execute("DROP TRIGGER audit_promotion ON promotions")
    op.drop_table("audit")
    if not _is_sqlite():
        op.execute("DROP FUNCTION audit_refuse()")
        op.execute("DROP FUNCTION audit_promoted()")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
