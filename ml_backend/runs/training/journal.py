"""Finished steps of a training, in the database, so that another process goes on with it."""

from __future__ import annotations

from sqlalchemy import delete, select

from ml_backend.runs.rows import key_of, tell_stage
from ml_backend.storage.database import Database
from ml_backend.storage.tables import JournalRow


class TrainingJournal:
    """`int_model.learning.learn.Journal` of one run. Blocking; every method may raise ``StoreError``.

    Args:
        database: not closed here.
        run: the run's id.
        data: digest of the examples; steps on other examples are not taken.
    """

    def __init__(self, database: Database, run: str, data: str) -> None:
        self._database = database
        self._run = key_of(run)
        self._data = data

    def get(self, key: str) -> str | None:
        """See ``Journal.get``."""
        row = (JournalRow.run == self._run, JournalRow.key == f"{self._data} {key}")
        with self._database.read() as connection:
            return connection.scalar(select(JournalRow.value).where(*row))

    def put(self, key: str, value: str) -> None:
        """See ``Journal.put``."""
        row = {"run": self._run, "key": f"{self._data} {key}", "value": value}
        with self._database.write() as connection:
            connection.execute(self._database.upsert(JournalRow, row))

    def tell(self, stage: str) -> None:
        """Say in words what the training is at."""
        with self._database.write() as connection:
            tell_stage(connection, self._run, stage)

    def clear(self) -> None:
        """The training has come to its end."""
        with self._database.write() as connection:
            connection.execute(delete(JournalRow).where(JournalRow.run == self._run))
