"""Annotations are kept. Runs get a kind, and keep what was asked for beside what it meant; projects get an adapter."""

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_REQUEST = ("project", "view", "limit", "only_missing", "include_annotated", "set_model_version")
_UNDER_WAY = sa.text("state IN ('preparing', 'active')")


def upgrade() -> None:
    """Change the tables in place; every row is kept."""
    op.drop_column("projects", "label_config_hash")
    op.add_column("projects", sa.Column("adapter", sa.String(64), nullable=False, server_default=""))
    op.rename_table("run_pace", "run_throughput")
    op.add_column("runs", sa.Column("kind", sa.String(12), nullable=False, server_default="predict"))
    _index_runs_under_way("project", "kind", "model_version")
    _rewrite_specs(_with_request)
    op.create_table(
        "annotations",
        sa.Column("project", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("task", sa.BigInteger),
        sa.Column("result", sa.Text),
        sa.Column("parent_prediction", sa.BigInteger),
        sa.Column("model_version", sa.String(200), nullable=False, server_default=""),
        sa.Column("lead_time", sa.Double),
        sa.Column("completed_by", sa.BigInteger),
        sa.Column("was_cancelled", sa.Boolean, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double),
        sa.Column("updated_at", sa.Double),
        sa.Column("received_at", sa.Double, nullable=False),
    )
    op.create_index("ix_annotations_received", "annotations", ["project", "received_at"])


def downgrade() -> None:
    """Change them back; the annotations are dropped."""
    op.drop_table("annotations")
    _rewrite_specs(_without_request)
    _index_runs_under_way("project", "model_version")
    op.drop_column("runs", "kind")
    op.rename_table("run_throughput", "run_pace")
    op.drop_column("projects", "adapter")
    op.add_column("projects", sa.Column("label_config_hash", sa.String(64), nullable=False, server_default=""))


def _index_runs_under_way(*columns: str) -> None:
    op.drop_index("ux_runs_under_way", "runs")
    op.create_index(
        "ux_runs_under_way",
        "runs",
        list(columns),
        unique=True,
        sqlite_where=_UNDER_WAY,
        postgresql_where=_UNDER_WAY,
    )


def _rewrite_specs(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    connection, runs = op.get_bind(), sa.table("runs", sa.column("id"), sa.column("spec"))
    for key, spec in connection.execute(sa.select(runs.c.id, runs.c.spec)).all():
        text = json.dumps(change(json.loads(spec)))
        connection.execute(sa.update(runs).where(runs.c.id == key).values(spec=text))


def _with_request(spec: dict[str, Any]) -> dict[str, Any]:
    request = {name: spec.pop(name) for name in _REQUEST if name in spec}
    return {"request": {**request, "prompt": ""}, **spec, "adapter": "", "kind": "predict"}


def _without_request(spec: dict[str, Any]) -> dict[str, Any]:
    request = spec.pop("request")
    kept = {name: value for name, value in spec.items() if name not in ("adapter", "kind")}
    return {**kept, **{name: request[name] for name in _REQUEST}}
