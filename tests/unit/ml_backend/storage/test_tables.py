"""The tables as the code describes them are those that the migrations make: keys, columns and what may be missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, DateTime, inspect
from sqlalchemy.dialects import postgresql

from ml_backend.storage.database import Database
from ml_backend.storage.tables import metadata

TABLES = sorted(metadata.tables)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('tables') / 'backend.sqlite3'}")
    with database.read() as opened:
        yield opened
    database.close()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_key_that_changes_of_its_rows_go_by(connection: Connection, name: str) -> None:
    made = inspect(connection).get_pk_constraint(name)["constrained_columns"]
    assert [column.name for column in metadata.tables[name].primary_key] == made


@pytest.mark.parametrize("name", TABLES)
def test_a_column_may_be_missing_only_where_the_code_expects_it(connection: Connection, name: str) -> None:
    described = {column.name: column.nullable for column in metadata.tables[name].columns}
    assert {column["name"]: column["nullable"] for column in inspect(connection).get_columns(name)} == described


def test_times_of_day_keep_their_zone_on_postgresql() -> None:
    """As the first migration made them; else two workers in different zones read different times."""
    times = [column for table in metadata.tables.values() for column in table.columns if type(column.type) is DateTime]
    assert [column.name for column in times] == ["updated_at"]
    assert times[0].type.compile(dialect=postgresql.dialect()) == "TIMESTAMP WITH TIME ZONE"
