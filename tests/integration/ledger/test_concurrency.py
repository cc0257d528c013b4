"""Many workers at once, in threads and in processes whose clocks differ by minutes: nothing lost, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunState, TaskState
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import SPEC, check, done

WORKER = """
import json, os, sys, time
address, run, manner, minutes = sys.argv[1:]
real = time.time
time.time = lambda: real() + 60 * float(minutes)
from ml_backend.storage.database import Database
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.owners import new_owner
from ml_backend.runs.types import RunState, TaskResult, TaskState
ledger, taken, first = Ledger(Database(address), lease_seconds=1.5), [], True
while ledger.get(run).state is RunState.ACTIVE:
    lease = ledger.lease(run, new_owner(), 7)
    if lease is None:
        time.sleep(0.05)
        continue
    if manner == "dies":
        os._exit(9)
    if manner == "late" and first:
        time.sleep(2.5)
    results = [TaskResult(task, TaskState.DONE, 0.5, "", 0.1, 1000 + task) for task in lease.tasks]
    if manner == "halves":
        ledger.release(lease, lease.tasks[::2])
    taken += ledger.finish(lease, results)
    if manner == "doubles":
        taken += ledger.finish(lease, results)
    first = False
print(json.dumps(taken))
"""


def test_processes_that_die_are_late_and_repeat_themselves(url: str, opened: Callable[[], Database]) -> None:
    database = opened()
    ledger = Ledger(database)
    run = ledger.create(SPEC, range(1, 301))

    def start(manner: str, minutes: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, url, run.id, manner, str(minutes)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    assert start("dies", 30).wait(120) == 9  # first, or the others might leave it nothing to die over
    processes = [start(manner, minutes) for manner, minutes in (("late", -45), ("doubles", 7), ("halves", -3))]
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    taken = Counter(task for text in told if text for task in json.loads(text))
    assert taken == Counter(range(1, 301))
    assert ledger.get(run.id).state is RunState.FINISHED
    assert ledger.progress(run.id).counts[TaskState.DONE] == 300
    check(database, run.id)


def test_threads_that_lease_finish_release_cancel_and_resume(database: Database) -> None:
    ledger = Ledger(database)
    run = ledger.create(SPEC, range(1, 401))
    taken: list[int] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            turn = 0
            while ledger.get(run.id).state is not RunState.FINISHED:
                turn += 1
                lease = ledger.lease(run.id, f"here:{number}:x", 5 + number)
                if lease is None:
                    continue
                ledger.renew(lease)
                if turn % 3 == number % 3:
                    ledger.release(lease, lease.tasks[:2])
                taken.extend(ledger.finish(lease, done(*lease.tasks)))
        except BaseException as error:
            errors.append(error)
            raise

    def steer() -> None:
        try:
            for _ in range(5):
                try:
                    ledger.cancel(run.id)
                    ledger.resume(run.id)
                except LedgerError:  # finished meanwhile
                    return
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)] + [threading.Thread(target=steer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert Counter(taken) == Counter(range(1, 401))
    check(database, run.id)
