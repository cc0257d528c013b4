"""Every table of the backend in one place, as Alembic wants them."""

from ml_backend.storage.database import Base
from ml_backend.storage.run_tables import LeaseRow, PaceRow, RunRow, TaskRow
from ml_backend.storage.store import ProjectRow, ResultRow

ROWS: tuple[type[Base], ...] = (ProjectRow, ResultRow, RunRow, TaskRow, LeaseRow, PaceRow)
metadata = Base.metadata
