"""What each method of the ledger promises."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import func, select, update

from ml_backend.runs.errors import LedgerError, RunExistsError, UnknownRunError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.owners import new_owner, pid_of, process_lives, this_host
from ml_backend.runs.rows import MOST_ATTEMPTS, SUSPECT
from ml_backend.runs.types import RunKind, RunState, TaskResult, TaskState
from ml_backend.storage.database import Database, epoch_now
from ml_backend.storage.tables import LeaseRow, RunRow, TaskRow, ThroughputRow
from tests.integration.ledger.kit import SPEC, check, done, let_expire, spec

LIVE, OTHER = "here:1:a", "here:2:b"


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_a_run_from_its_beginning_to_its_end(ledger: Ledger, database: Database) -> None:
    run = ledger.create(spec(view=3, limit=5, set_model_version=True), [5, 3, 3, 1, 4, 2])
    assert (run.state, run.spec, run.why, run.finished_at) == (
        RunState.ACTIVE,
        spec(view=3, limit=5, set_model_version=True),
        "",
        None,
    )
    lease = ledger.lease(run.id, LIVE, 3)
    assert lease
    assert (lease.run, lease.owner, lease.tasks, dict(lease.attempts)) == (run.id, LIVE, (1, 2, 3), {1: 1, 2: 1, 3: 1})
    assert ledger.progress(run.id).workers == 1
    results = [
        TaskResult(1, TaskState.DONE, 0.75, "", 1.5, 9_000_000_000),
        TaskResult(2, TaskState.ABSTAINED, 0.0, "nothing found", 1.0, 12),
        TaskResult(3, TaskState.FAILED, None, "no such\0 image \udc80", 0.5, None),
    ]
    assert ledger.finish(lease, results) == {1, 2, 3}
    rest = ledger.lease(run.id, LIVE, 9)
    assert rest
    assert ledger.finish(rest, [*done(4), TaskResult(5, TaskState.SKIPPED, reason="annotated")]) == {4, 5}
    ended = ledger.get(run.id)
    assert ended.state is RunState.FINISHED
    assert ended.finished_at
    assert 0 <= (ended.finished_at - ended.created_at).total_seconds() < 60
    progress = ledger.progress(run.id)
    assert {state: n for state, n in progress.counts.items() if n} == {
        TaskState.DONE: 2,
        TaskState.ABSTAINED: 1,
        TaskState.FAILED: 1,
        TaskState.SKIPPED: 1,
    }
    assert (progress.total, progress.left, progress.workers) == (5, 0, 0)
    first, second, third, *_ = ledger.records(run.id)
    assert (first.task, first.state, first.score, first.prediction, first.seconds) == (
        1,
        TaskState.DONE,
        0.75,
        9_000_000_000,
        1.5,
    )
    assert (second.reason, third.reason) == ("nothing found", "no such image ?")
    assert [r.task for r in ledger.records(run.id, after=2, limit=2)] == [3, 4]
    assert [r.task for r in ledger.records(run.id, TaskState.DONE, after=1)] == [4]
    check(database, run.id)


def test_an_empty_run_is_finished_and_an_unknown_one_is_told(ledger: Ledger) -> None:
    assert ledger.create(SPEC, []).state is RunState.FINISHED
    for call in (ledger.get, ledger.progress, ledger.records, ledger.cancel, ledger.resume, ledger.retry):
        for name in ("77", "", "1x", "-1", "٣", "9" * 30):
            with pytest.raises(UnknownRunError, match="runs list"):
                call(name)
    with pytest.raises(UnknownRunError):
        ledger.lease("77", LIVE, 1)
    with pytest.raises(UnknownRunError):
        ledger.stop("77", "x")


def test_runs_are_listed_newest_first(ledger: Ledger) -> None:
    made = [ledger.create(spec(project=project), [1]) for project in (1, 2, 3)]
    ledger.cancel(made[0].id)
    again = ledger.create(spec(project=1), [1])
    assert [run.id for run in ledger.runs()] == [run.id for run in (again, *reversed(made))]
    assert [run.id for run in ledger.runs(project=1)] == [again.id, made[0].id]
    assert [run.id for run in ledger.runs(limit=1)] == [again.id]


def test_a_second_run_of_the_same_version_is_refused_while_the_first_is_under_way(ledger: Ledger) -> None:
    first = ledger.create(SPEC, [1])
    with pytest.raises(RunExistsError, match=f"run {first.id} of int-nano-00c0ffee is under way on project 7") as told:
        ledger.create(SPEC, [2])
    assert told.value.run == first
    other = ledger.create(spec(model_version="int-nano-2"), [1])
    ledger.create(spec(project=8), [1])
    assert {r.id for r in ledger.unfinished()} >= {first.id, other.id}
    ledger.cancel(first.id)
    second = ledger.create(SPEC, [2])
    with pytest.raises(RunExistsError) as told:
        ledger.resume(first.id)
    assert told.value.run.id == second.id
    ledger.cancel(second.id)
    assert ledger.resume(first.id).state is RunState.ACTIVE


def test_one_run_of_each_kind_may_be_under_way(ledger: Ledger) -> None:
    train = spec(kind=RunKind.TRAIN)
    first, second = ledger.create(SPEC, [1]), ledger.create(train, [1, 2])
    with pytest.raises(RunExistsError, match=f"run {second.id} "):
        ledger.create(train, [3])
    assert ledger.get(second.id).spec.kind is RunKind.TRAIN
    assert [run.id for run in ledger.unfinished()] == [first.id, second.id]
    assert [run.id for run in ledger.unfinished({RunKind.TRAIN})] == [second.id]
    assert ledger.unfinished(()) == []


def test_two_people_press_the_button_at_once(opened: Callable[[], Database]) -> None:
    ledgers, barrier = [Ledger(opened()) for _ in range(4)], threading.Barrier(4)
    made: list[str] = []
    joined: list[str] = []

    def press(ledger: Ledger) -> None:
        barrier.wait()
        try:
            made.append(ledger.create(SPEC, range(1, 50)).id)
        except RunExistsError as error:
            joined.append(error.run.id)

    threads = [threading.Thread(target=press, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert joined == made * 3
    assert ledgers[0].progress(made[0]).total == 49


def test_a_listing_that_breaks_leaves_nothing(ledger: Ledger, database: Database) -> None:
    def listing() -> Iterator[int]:
        yield from range(6000)
        assert ledger.runs()[0].state is RunState.PREPARING
        assert ledger.lease(ledger.runs()[0].id, LIVE, 1) is None
        raise ConnectionError("Label Studio went away")

    with pytest.raises(ConnectionError):
        ledger.create(SPEC, listing())
    assert ledger.runs() == []
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(TaskRow)) == 0


def test_a_run_whose_maker_died_is_replaced_and_the_dead_maker_changes_nothing(
    ledger: Ledger, database: Database
) -> None:
    replaced: list[str] = []

    def listing() -> Iterator[int]:
        yield from range(1, 6001)
        with pytest.raises(RunExistsError):
            ledger.create(SPEC, [1])
        with database.write() as connection:
            connection.execute(update(RunRow).values(touched_at=RunRow.touched_at - 121))
        replaced.append(ledger.create(SPEC, [1, 2]).id)
        yield from range(6001, 6010)

    with pytest.raises(LedgerError, match="silent for too long"):
        ledger.create(SPEC, listing())
    assert [run.id for run in ledger.runs()] == replaced
    assert ledger.progress(replaced[0]).total == 2
    check(database, replaced[0])


def test_a_run_cancelled_while_it_is_prepared_cannot_be_resumed(ledger: Ledger) -> None:
    def listing() -> Iterator[int]:
        yield 1
        ledger.cancel(ledger.runs()[0].id)
        yield 2

    with pytest.raises(LedgerError, match="takes no more tasks: it is cancelled"):
        ledger.create(SPEC, listing())
    (run,) = ledger.runs()
    with pytest.raises(LedgerError, match="never listed in full"):
        ledger.resume(run.id)


def test_more_tasks_for_an_active_run(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, [1, 2])
    lease = ledger.lease(run.id, LIVE, 1)
    assert lease
    ledger.finish(lease, done(1))
    assert ledger.extend(run.id, [1, 2, 3, 3]) == 1
    assert [(r.task, r.state.value) for r in ledger.records(run.id)] == [(1, "done"), (2, "pending"), (3, "pending")]
    ledger.cancel(run.id)
    with pytest.raises(LedgerError, match="cancelled"):
        ledger.extend(run.id, [4])
    check(database, run.id)


def test_a_lease_lost_to_another_changes_nothing(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, range(1, 5))
    late = ledger.lease(run.id, LIVE, 3)
    assert late
    assert ledger.unfinished()[0].id == run.id
    rest = ledger.lease(run.id, OTHER, 3)
    assert rest
    assert rest.tasks == (4,)
    assert ledger.unfinished() == []
    let_expire(database, late.token)
    assert ledger.progress(run.id).workers == 1
    assert ledger.unfinished()[0].id == run.id
    assert ledger.renew(late) == {1, 2, 3}, "nobody took it over yet"
    assert ledger.lease(run.id, OTHER, 3) is None
    let_expire(database, late.token)
    assert ledger.finish(late, done(3)) == {3}, "nobody took it over yet"
    taken = ledger.lease(run.id, OTHER, 3)
    assert taken
    assert dict(taken.attempts) == {1: 2, 2: 2}
    assert (ledger.renew(late), ledger.finish(late, done(1, 2)), ledger.release(late)) == (set(), set(), set())
    assert ledger.finish(taken, [*done(1, 2), *done(4)]) == {1, 2}
    assert ledger.finish(taken, done(1, 2)) == set()
    check(database, run.id)


def test_what_is_given_back_was_not_attempted(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, [1, 2, 3])
    lease = ledger.lease(run.id, LIVE, 3)
    assert lease
    assert ledger.release(lease, [2, 77]) == {2}
    assert ledger.renew(lease) == {1, 3}
    assert ledger.release(lease) == {1, 3}
    assert [r.attempts for r in ledger.records(run.id)] == [0, 0, 0]
    check(database, run.id)


def test_a_task_that_kills_its_workers_fails(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, [1, 2])
    for attempt in range(1, MOST_ATTEMPTS + 1):
        lease = ledger.lease(run.id, LIVE, 1)
        assert lease
        assert dict(lease.attempts) == {1: attempt}
        let_expire(database)
    lease = ledger.lease(run.id, LIVE, 5)
    assert lease
    assert lease.tasks == (2,)
    (worn,) = ledger.records(run.id, TaskState.FAILED)
    assert worn.task == 1
    assert worn.reason.startswith("its workers died 5 times")
    assert "probably the image" in worn.reason
    ledger.finish(lease, done(2))
    assert ledger.get(run.id).state is RunState.FINISHED
    check(database, run.id)


@pytest.mark.parametrize("poisonous", [{1}, {20}, {7}, {3, 4}])
def test_an_image_that_kills_the_process_takes_no_neighbour_with_it(
    ledger: Ledger, database: Database, poisonous: set[int]
) -> None:
    run = ledger.create(SPEC, range(1, 21))
    processes = itertools.count(1)
    for _ in range(60):  # each process holds two leases at a time, whose images go to the models together
        if ledger.get(run.id).state is RunState.FINISHED:
            break
        pid = next(processes)
        while leases := [one for one in (ledger.lease(run.id, f"here:{pid}:x", 8) for _ in range(2)) if one]:
            if any(poisonous & set(one.tasks) for one in leases):
                assert ledger.release_dead("here", lambda other: False)
                break
            for one in leases:
                ledger.finish(one, done(*one.tasks))
    assert {record.task for record in ledger.records(run.id, TaskState.FAILED)} == poisonous
    assert ledger.progress(run.id).counts[TaskState.DONE] == 20 - len(poisonous)
    check(database, run.id)


def test_the_last_task_that_wears_out_ends_the_run(ledger: Ledger) -> None:
    run = ledger.create(SPEC, [1])
    for _ in range(MOST_ATTEMPTS):
        assert ledger.lease(run.id, LIVE, 1)
        ledger.release_dead("here", lambda pid: False)
    assert ledger.get(run.id).state is RunState.FINISHED


def test_the_dead_of_this_host_are_known_at_once(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, range(1, 9))
    owners = ["here:1:a", "here:2:b", "there:2:c", "here%:2:d", "he:re:2:e", "here:x:f"]
    leases = [ledger.lease(run.id, owner, 1) for owner in owners]
    assert ledger.release_dead("here", lambda pid: pid == 1) == 1
    held = [bool(ledger.renew(lease)) for lease in leases if lease]
    assert held == [True, False, True, True, True, True]
    assert ledger.release_dead("he:re", lambda pid: False) == 1
    check(database, run.id)


def test_owners_name_their_process() -> None:
    owner = new_owner()
    assert owner != new_owner()
    assert owner.startswith(f"{this_host()}:{os.getpid()}:")
    assert pid_of(owner) == os.getpid()
    assert pid_of("unknown") is None
    assert process_lives(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not process_lives(gone.pid)


def test_cancelled_and_stopped_runs_hand_out_nothing_and_can_be_resumed(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, [1, 2])
    lease = ledger.lease(run.id, LIVE, 1)
    assert lease
    for leave in (ledger.cancel, lambda run_id: ledger.stop(run_id, "the labeling config changed")):
        left = leave(run.id)
        assert leave(run.id) == left
        assert ledger.lease(run.id, OTHER, 1) is None
        assert ledger.unfinished() == []
        assert ledger.resume(run.id).state is RunState.ACTIVE
    assert ledger.stop(run.id, "first").why == "first"
    assert ledger.stop(run.id, "second").why == "first"
    assert ledger.finish(lease, done(1)) == {1}, "the work is done, whatever the run's state"
    assert ledger.cancel(run.id).state is RunState.CANCELLED
    with pytest.raises(LedgerError, match=f"run {run.id} is cancelled"):
        ledger.stop(run.id, "x")
    resumed = ledger.resume(run.id)
    assert (resumed.state, resumed.why) == (RunState.ACTIVE, "")
    assert ledger.resume(run.id) == resumed
    check(database, run.id)


def test_a_run_whose_last_task_ended_while_it_was_cancelled_is_finished_when_resumed(ledger: Ledger) -> None:
    run = ledger.create(SPEC, [1])
    lease = ledger.lease(run.id, LIVE, 1)
    assert lease
    ledger.cancel(run.id)
    ledger.finish(lease, done(1))
    assert ledger.get(run.id).state is RunState.CANCELLED
    assert ledger.resume(run.id).state is RunState.FINISHED
    for call, said in ((ledger.cancel, "is finished"), (ledger.resume, "runs retry")):
        with pytest.raises(LedgerError, match=said):
            call(run.id)
    with pytest.raises(LedgerError, match="is finished"):
        ledger.stop(run.id, "x")


def test_retry_makes_failed_tasks_pending_and_the_run_active(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, [1, 2, 3])
    lease = ledger.lease(run.id, LIVE, 3)
    assert lease
    failed = TaskResult(1, TaskState.FAILED, None, "broken", 2.0)
    ledger.finish(lease, [failed, TaskResult(2, TaskState.SKIPPED, reason="annotated"), *done(3)])
    assert ledger.retry(run.id) == 1
    again = ledger.get(run.id)
    assert (again.state, again.finished_at) == (RunState.ACTIVE, None)
    (record,) = ledger.records(run.id, TaskState.PENDING)
    assert (record.task, record.reason, record.seconds) == (1, "", 0.0)
    assert ledger.retry(run.id, {TaskState.SKIPPED}) == 1
    assert ledger.retry(run.id) == 0
    lease = ledger.lease(run.id, LIVE, 3)
    assert lease
    assert dict(lease.attempts) == {1: 2, 2: 2}, "a worker that died may have pushed: the next one must look"
    with pytest.raises(LedgerError, match="done cannot be done again"):
        ledger.retry(run.id, {TaskState.DONE})
    ledger.cancel(run.id)
    with pytest.raises(LedgerError, match="cancelled; resume it first"):
        ledger.retry(run.id)
    check(database, run.id)


def test_a_result_that_is_not_final_is_refused(ledger: Ledger) -> None:
    run = ledger.create(SPEC, [1])
    lease = ledger.lease(run.id, LIVE, 1)
    assert lease
    with pytest.raises(ValueError, match="task 1 cannot be finished as pending"):
        ledger.finish(lease, [TaskResult(1, TaskState.PENDING)])


def test_the_rate_looks_at_the_last_minutes_only(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, range(1, 101))
    assert ledger.progress(run.id).rate is None
    assert ledger.progress(run.id).eta_seconds is None
    for _ in range(2):
        lease = ledger.lease(run.id, LIVE, 30)
        assert lease
        ledger.finish(lease, done(*lease.tasks))
    with database.write() as connection:  # as if it had been 100 seconds ago
        connection.execute(update(ThroughputRow).values(slot=ThroughputRow.slot - 20))
    progress = ledger.progress(run.id)
    assert progress.rate == pytest.approx(60 / 100, rel=0.1)
    assert progress.eta_seconds == pytest.approx(40 / 0.6, rel=0.1)
    with database.write() as connection:
        connection.execute(update(ThroughputRow).values(slot=ThroughputRow.slot - 100))
    assert ledger.progress(run.id).rate is None
    lease = ledger.lease(run.id, LIVE, 30)
    assert lease
    ledger.finish(lease, done(*lease.tasks))
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(ThroughputRow)) == 1, "old slots are removed"


def test_where_to_look_first_is_a_hint_and_no_more(ledger: Ledger, database: Database) -> None:
    run = ledger.create(SPEC, range(1, 9))
    with database.write() as connection:
        connection.execute(update(RunRow).values(next_task=6))
    first = ledger.lease(run.id, LIVE, 4)
    assert first
    assert first.tasks == (1, 6, 7, 8)
    rest = ledger.lease(run.id, LIVE, 9)
    assert rest
    assert rest.tasks == (2, 3, 4, 5)
    check(database, run.id)


@pytest.mark.parametrize(("attempts", "alone"), [(SUSPECT - 1, False), (SUSPECT, True), (SUSPECT + 1, True)])
def test_a_suspect_behind_good_tasks_is_not_leased_with_them(
    ledger: Ledger, database: Database, attempts: int, alone: bool
) -> None:
    run = ledger.create(spec(), [1, 2, 3, 4])
    with database.write() as connection:
        connection.execute(update(TaskRow).where(TaskRow.task == 2).values(attempts=attempts))
    first = ledger.lease(run.id, LIVE, 3)
    assert first
    assert first.tasks == ((1, 3, 4) if alone else (1, 2, 3))
    if alone:
        assert ledger.lease(run.id, LIVE, 3) is None, "not beside other tasks of the same worker"
        other = ledger.lease(run.id, OTHER, 3)
        assert other
        assert other.tasks == (2,)
        assert ledger.lease(run.id, OTHER, 3) is None
    check(database, run.id)


def test_tasks_below_the_pointer_are_found_with_those_of_an_expired_lease(ledger: Ledger, database: Database) -> None:
    run = ledger.create(spec(), [1, 2, 3, 4])
    lease = ledger.lease(run.id, OTHER, 4)
    assert lease
    ledger.release(lease, [1, 2])
    with database.write() as connection:  # as two workers that look at the same moment may leave it
        connection.execute(update(RunRow).where(RunRow.id == int(run.id)).values(next_task=5))
    let_expire(database)
    again = ledger.lease(run.id, LIVE, 9)
    assert again
    assert again.tasks == (1, 2, 3, 4)
    check(database, run.id)


def test_what_a_silent_worker_holds_is_told(database: Database) -> None:
    ledger = Ledger(database, lease_seconds=120)
    run = ledger.create(SPEC, range(1, 31))
    first, second = (ledger.lease(run.id, f"host:{n}:a", 12) for n in (1, 2))
    assert first is not None
    assert second is not None
    told = ledger.progress(run.id)
    assert (told.workers, told.silent, told.free_in) == (2, 0, None)
    with database.write() as connection:  # 40 s without a renewal are one that came late
        connection.execute(update(LeaseRow).values(expires_at=LeaseRow.expires_at - 40))
    assert ledger.progress(run.id).silent == 0
    ledger.renew(second)
    with database.write() as connection:
        connection.execute(update(LeaseRow).where(LeaseRow.id == int(first.token)).values(expires_at=epoch_now() + 50))
    told = ledger.progress(run.id)
    assert (told.workers, told.silent) == (2, 12)
    assert told.free_in is not None
    assert 20 < told.free_in <= 50
    let_expire(database, first.token)
    told = ledger.progress(run.id)
    assert (told.workers, told.silent, told.free_in) == (1, 12, 0.0)
    assert ledger.lease(run.id, "host:3:a", 30) is not None
    assert ledger.progress(run.id).silent == 0
