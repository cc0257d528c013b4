"""Alembic's way in: the connection comes from `ml_backend.storage.migrations.migrate`, already in its transaction."""

from alembic import context

from ml_backend.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    compare_type=True,
)
context.run_migrations()
