"""How the ledger of batch runs behaves with a million tasks, on SQLite and on PostgreSQL.

Makes a run, works through a part of it, takes over what dead workers left, reads progress and records, cancels,
resumes; then again with several processes at once. PostgreSQL is started from its programs with its usual, durable
settings; both databases are in the system's temporary folder:

    python -m benchmarks.ledger [--tasks 1000000] [--leases 2000] [--count 16] [--only sqlite]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import update

from ml_backend.runs.ledger import Ledger
from ml_backend.runs.rows import Counts, settle
from ml_backend.runs.types import Lease, RunRequest, RunSpec, TaskResult, TaskState
from ml_backend.storage.database import Database
from ml_backend.storage.tables import LeaseRow, TaskRow
from tests.support.postgres import find_binaries, postgres_server

SPEC = RunSpec(RunRequest(project=1), "<View/>", None, "int-benchmark-00000000", "", "int", "")


@dataclass(frozen=True, slots=True)
class Timing:
    """What was done, how often, and the seconds of each."""

    name: str
    seconds: list[float]

    def row(self) -> tuple[str, ...]:
        """For the table: milliseconds where it is done often, seconds where it is done once."""
        if len(self.seconds) == 1:
            return self.name, "1", f"{self.seconds[0]:.3f} s", "", ""
        ordered = sorted(self.seconds)
        median, late = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
        return self.name, str(len(ordered)), *(f"{1000 * value:.2f} ms" for value in (median, late, ordered[-1]))


class Clock:
    """Collects timings."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []

    def time(self, name: str, work: Callable[[], Any], times: int = 1) -> Any:
        """Do it so often; returns the last result."""
        seconds, result = [], None
        for _ in range(times):
            begun = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - begun)
        self.timings.append(Timing(name, seconds))
        return result


def results_of(lease: Lease) -> list[TaskResult]:
    """Every task done, as a worker reports it."""
    return [TaskResult(task, TaskState.DONE, 0.5, "", 0.1, 10_000_000 + task) for task in lease.tasks]


def measure(url: str, tasks: int, leases: int, count: int) -> list[Timing]:
    """All timings of one database."""
    database, clock = Database(url), Clock()
    ledger = Ledger(database)
    run = clock.time(f"create a run of {tasks:,} tasks", lambda: ledger.create(SPEC, range(1, tasks + 1))).id
    kept: list[Lease] = []

    def lease() -> None:
        taken = ledger.lease(run, "here:1:a", count)
        if taken is None:
            raise RuntimeError("too few tasks for so many leases")
        kept.append(taken)

    clock.time(f"lease {count}", lease, leases)
    clock.time("renew", iter_over(kept, ledger.renew), min(leases, 500))
    done, silent = kept[: leases // 2], kept[leases // 2 :]
    clock.time(f"finish {count}", iter_over(done, lambda held: ledger.finish(held, results_of(held))), len(done))
    with database.write() as connection:
        connection.execute(update(LeaseRow).values(expires_at=0.0))
    clock.time(f"lease {count}, taking over {len(silent):,} expired leases first", lease)
    clock.time("progress", lambda: ledger.progress(run), 200)
    clock.time("unfinished", ledger.unfinished, 200)
    clock.time("100 records in the middle", lambda: ledger.records(run, after=tasks // 2), 50)
    clock.time("100 failed records (there are none)", lambda: ledger.records(run, TaskState.FAILED), 50)
    clock.time("cancel", lambda: ledger.cancel(run))
    clock.time("resume", lambda: ledger.resume(run))
    ledger.release(kept[-1])
    clock.time(f"(nine tenths become done, {tasks // 10:,} rows at a time)", lambda: age(database, run, tasks))
    clock.time(f"lease {count}, nine tenths done", lease, min(leases, 500))
    clock.time("progress, nine tenths done", lambda: ledger.progress(run), 200)
    clock.time("100 done records at the end", lambda: ledger.records(run, TaskState.DONE, tasks * 9 // 10 - 100), 50)
    clock.timings += drain(url, ledger, run, count)
    database.close()
    return clock.timings


def age(database: Database, run: str, tasks: int) -> None:
    """Finish nine tenths of the tasks as workers would, but quickly: the rest is leased from behind their rows."""
    for tenth in range(9):
        low, high = tenth * tasks // 10, (tenth + 1) * tasks // 10
        with database.write() as connection:
            rows = (TaskRow.run == int(run), TaskRow.task > low, TaskRow.task <= high, TaskRow.state == "pending")
            changed = connection.execute(update(TaskRow).where(*rows).values(state="done", score=0.5, attempts=1))
            settle(
                connection, int(run), Counts({TaskState.PENDING: -changed.rowcount, TaskState.DONE: changed.rowcount})
            )


def iter_over(items: list[Lease], work: Callable[[Lease], Any]) -> Callable[[], Any]:
    """Work on the next one at each call."""
    following = iter(items)
    return lambda: work(next(following))


def work_for(url: str, run: str, count: int, seconds: float, told: Any) -> None:
    """A worker without models: leases and finishes as fast as it can, and tells how many tasks in how many seconds."""
    ledger, number = Ledger(Database(url)), 0
    begun = time.monotonic()
    while time.monotonic() < begun + seconds and (lease := ledger.lease(run, "here:1:a", count)):
        number += len(ledger.finish(lease, results_of(lease)))
    told.put((number, time.monotonic() - begun))


def drain(url: str, ledger: Ledger, run: str, count: int) -> list[Timing]:
    """Seconds per thousand tasks with 1, 2 and 4 workers, which do nothing but lease and finish."""
    spawned, found = multiprocessing.get_context("spawn"), []
    for workers in (1, 2, 4):
        told: Any = spawned.Queue()
        before = ledger.progress(run).counts[TaskState.DONE]
        processes = [spawned.Process(target=work_for, args=(url, run, count, 10.0, told)) for _ in range(workers)]
        for process in processes:
            process.start()
        numbers, seconds = zip(*(told.get(timeout=120) for _ in processes), strict=True)
        number = sum(numbers)
        for process in processes:
            process.join()
        if ledger.progress(run).counts[TaskState.DONE] - before != number:
            raise RuntimeError("the counters are wrong")
        if number:
            name = f"lease and finish 1,000 tasks, {workers} workers (of {number:,})"
            found.append(Timing(name, [1000 * max(seconds) / number]))
    return found


@contextmanager
def databases(only: str | None) -> Iterator[dict[str, str]]:
    """Addresses of empty databases."""
    binaries = find_binaries()
    with tempfile.TemporaryDirectory() as folder:
        found = {"sqlite": f"sqlite:///{Path(folder) / 'backend.sqlite3'}"}
        with postgres_server(binaries, durable=True) if binaries and only != "sqlite" else nullcontext() as server:
            if server is not None:
                found["postgresql"] = server.new_database()
            yield {name: url for name, url in found.items() if only in (None, name)}


def main() -> None:
    """Measure and print a table for each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--leases", type=int, default=2000)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    chosen = parser.parse_args()
    with databases(chosen.only) as found:
        for name, url in found.items():
            busy = f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            table = Table("", "times", "median", "99 %", "longest", title=f"{name}; {busy}")
            for timing in measure(url, chosen.tasks, chosen.leases, chosen.count):
                table.add_row(*timing.row())
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
