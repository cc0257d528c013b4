"""The log of actions in the database, which nobody can change."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from ml_backend.storage.audit import Audit, operator
from ml_backend.storage.database import Database, StoreError


def test_entries_are_appended_and_read_newest_first(database: Database) -> None:
    audit = Audit(database)
    for number in range(5):
        audit.note("user anna", "10.0.0.7", "cancel", f"run {number} " + "x" * 5000)
    found = audit.entries(2)
    assert [(entry.who, entry.place, entry.action, entry.what[:6]) for entry in found] == [
        ("user anna", "10.0.0.7", "cancel", "run 4 "),
        ("user anna", "10.0.0.7", "cancel", "run 3 "),
    ]
    assert len(found[0].what) == 1000
    assert [entry.what[:5] for entry in audit.entries(9, before=found[-1].id)] == ["run 2", "run 1", "run 0"]
    assert found[0].at.tzinfo is not None


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_the_database_refuses_to_change_it(database: Database, statement: str) -> None:
    Audit(database).note(*operator(), "start", "project 1")
    with pytest.raises(StoreError, match="append-only"), database.write() as connection:
        connection.execute(text(statement))
    assert len(Audit(database).entries(9)) == 1


def test_promotions_write_themselves_into_it(database: Database) -> None:
    columns = "project, adapter, former, how, who, at"
    with database.write() as connection:
        for row in ("7, 'abc', '', 'promote', 'the gate', 1.0", "7, '', 'abc', 'rollback', 'anna', 2.0"):
            connection.execute(text(f"INSERT INTO promotions ({columns}) VALUES ({row})"))  # noqa: S608 - our own
    assert [(entry.who, entry.action, entry.what) for entry in Audit(database).entries(9)] == [
        ("anna", "rollback", "project 7: from abc to the base models"),
        ("the gate", "promote", "project 7: from the base models to abc"),
    ]
