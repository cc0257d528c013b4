"""Images per second, by a clock that the test moves: what a watcher's remaining time is reckoned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from ml_backend.runs import throughput
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.throughput import SLOT, WINDOW
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import LeaseRow, ThroughputRow
from tests.integration.ledger.kit import SPEC, spec

NOON = 1_790_000_000.0


@dataclass
class Meter:
    """The counts of one run, and the time."""

    database: Database
    now: float = NOON

    def add(self, tasks: int, run: int = 1) -> None:
        with self.database.write() as connection:
            throughput.add(connection, self.database, run, tasks)

    def rate(self, run: int = 1, finished_at: float | None = None) -> float | None:
        with self.database.read() as connection:
            return throughput.rate(connection, run, finished_at)

    def rows(self, run: int = 1) -> int:
        with self.database.read() as connection:
            return connection.scalar(select(func.count()).where(ThroughputRow.run == run)) or 0


@pytest.fixture
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    database = Database(f"sqlite:///{tmp_path / 'backend.sqlite3'}")
    made = Meter(database)
    monkeypatch.setattr(throughput, "_now", lambda _: made.now)
    yield made
    database.close()


def test_there_is_no_rate_before_the_first_image(meter: Meter) -> None:
    assert meter.rate() is None
    meter.add(3, run=2)
    assert meter.rate() is None


def test_images_are_counted_over_the_time_since_the_first(meter: Meter) -> None:
    meter.add(10)
    meter.add(5)
    meter.now += 20
    meter.add(15)
    meter.now += 10
    assert meter.rate() == pytest.approx(30 / 30)


def test_the_first_second_promises_nothing_unheard_of(meter: Meter) -> None:
    meter.add(4)
    assert meter.rate() == pytest.approx(4.0)
    meter.now += 1.5
    assert meter.rate() == pytest.approx(4 / 1.5)


def test_what_is_long_ago_does_not_count(meter: Meter) -> None:
    meter.add(1000)
    meter.now += WINDOW - SLOT
    assert meter.rate() == pytest.approx(1000 / (WINDOW - SLOT))
    meter.now += 2 * SLOT
    assert meter.rate() is None
    meter.add(8)
    meter.now += 4
    assert meter.rate() == pytest.approx(2.0)


def test_a_finished_run_keeps_the_rate_of_its_last_minutes(meter: Meter) -> None:
    meter.add(10)
    meter.now += 10
    meter.add(10)
    ended = meter.now
    meter.now += 3600
    assert meter.rate(finished_at=ended) == pytest.approx(2.0)


def test_old_counts_are_removed_of_this_run_only(meter: Meter) -> None:
    meter.add(1)
    meter.add(1, run=2)
    for _ in range(3):
        meter.now += WINDOW
        meter.add(1)
    assert meter.rows() == 3, "those of the last two windows, their borders included"
    assert meter.rows(2) == 1


def test_who_is_at_a_run_and_what_silent_workers_hold(meter: Meter) -> None:
    ledger = Ledger(meter.database, lease_seconds=400)
    run, other = ledger.create(SPEC, range(1, 20)), ledger.create(spec(model_version="int-other"), range(1, 20))

    def hands(of: str = run.id) -> tuple[int, int, float | None]:
        with meter.database.read() as connection:
            return throughput.hands(connection, int(of), 400)

    def ends_in(seconds: float, owner: str) -> None:
        with meter.database.write() as connection:
            due = update(LeaseRow).where(LeaseRow.run == int(run.id), LeaseRow.owner == owner)
            connection.execute(due.values(expires_at=epoch_now() + seconds))

    assert hands() == (0, 0, None)
    for owner, count in (("host:1:a", 3), ("host:1:a", 2), ("host:2:a", 4)):
        assert ledger.lease(run.id, owner, count)
    assert ledger.lease(other.id, "host:3:a", 5)
    assert (hands(), hands(other.id)) == ((2, 0, None), (1, 0, None))
    ends_in(150, "host:1:a")
    living, tasks, left = hands()
    assert (living, tasks) == (2, 5)
    assert left is not None
    assert 50 < left <= 150
    ends_in(-1000, "host:1:a")
    assert hands() == (1, 5, 0.0)
    ends_in(-1000, "host:2:a")
    assert hands() == (0, 9, 0.0)
    assert hands(other.id) == (1, 0, None)
