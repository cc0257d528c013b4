"""Workers that lease, die, expire, come late and repeat themselves, in any order, against a simple model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ml_backend.runs.errors import LedgerError
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.rows import MOST_ATTEMPTS, SUSPECT
from ml_backend.runs.types import Lease, RunState, TaskResult, TaskState
from ml_backend.storage.database import Database
from tests.integration.ledger.kit import check, let_expire, spec

PROJECTS = count(1)
FINAL = st.sampled_from([TaskState.DONE, TaskState.ABSTAINED, TaskState.FAILED, TaskState.SKIPPED])
TASKS = st.integers(1, 30)


@dataclass
class Holding:
    """What the model knows of a lease."""

    lease: Lease
    tasks: set[int] = field(default_factory=set)
    expired: bool = False


class Workers(RuleBasedStateMachine):
    """The ledger and its model."""

    database: Database

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(self.database, lease_seconds=10_000)
        self.run = self.ledger.create(spec(project=next(PROJECTS)), range(1, 21)).id
        self.states = dict.fromkeys(range(1, 21), TaskState.PENDING)
        self.attempts = dict.fromkeys(self.states, 0)
        self.state = RunState.ACTIVE
        self.held: list[Holding] = []
        self.ends: Counter[int] = Counter()  # final results of a task since it was last made pending

    # --- the model ----------------------------------------------------------------------------------------------------

    def of(self, state: TaskState) -> list[int]:
        return sorted(task for task, now in self.states.items() if now is state)

    def end_if_nothing_is_left(self) -> None:
        if self.state is RunState.ACTIVE and not self.of(TaskState.PENDING) and not self.of(TaskState.LEASED):
            self.state = RunState.FINISHED

    def lose(self, holding: Holding) -> None:
        for task in holding.tasks:
            worn = self.attempts[task] >= MOST_ATTEMPTS
            self.states[task] = TaskState.FAILED if worn else TaskState.PENDING
        holding.tasks = set()

    def expected(self, owner: str, number: int) -> list[int]:
        """The next tasks of an owner; suspects go alone, to who has nothing else."""
        own = [task for holding in self.held if holding.lease.owner == owner for task in holding.tasks]
        if any(self.attempts[task] > SUSPECT for task in own):
            return []
        waiting = self.of(TaskState.PENDING)
        if waiting and not own and self.attempts[waiting[0]] >= SUSPECT:
            return waiting[:1]
        return [task for task in waiting if self.attempts[task] < SUSPECT][:number]

    # --- what workers do ----------------------------------------------------------------------------------------------

    @rule(target=leases, number=st.integers(1, 8), pid=st.integers(1, 3))
    def lease(self, number: int, pid: int) -> Holding | None:
        taken = self.ledger.lease(self.run, f"here:{pid}:x", number)
        if self.state is not RunState.ACTIVE:
            assert taken is None
            return None
        for holding in self.held:
            if holding.expired:
                self.lose(holding)
        expected = self.expected(f"here:{pid}:x", number)
        self.end_if_nothing_is_left()
        if not expected:
            assert taken is None
            return None
        assert taken is not None
        for task in expected:
            self.states[task] = TaskState.LEASED
            self.attempts[task] += 1
        assert dict(taken.attempts) == {task: self.attempts[task] for task in expected}
        self.held.append(Holding(taken, set(expected)))
        return self.held[-1]

    @rule(holding=leases)
    def renew(self, holding: Holding | None) -> None:
        if holding is not None:
            assert self.ledger.renew(holding.lease) == holding.tasks
            holding.expired = False

    @rule(holding=leases, others=st.sets(TASKS, max_size=4), part=st.integers(1, 8), state=FINAL)
    def finish(self, holding: Holding | None, others: set[int], part: int, state: TaskState) -> None:
        if holding is None:
            return
        given = {*sorted(holding.lease.tasks)[:part], *others}
        taken = self.ledger.finish(holding.lease, [TaskResult(task, state, 0.5, "why") for task in given])
        assert taken == given & holding.tasks
        for task in taken:
            self.states[task] = state
            self.ends[task] += 1
        holding.tasks -= taken
        self.end_if_nothing_is_left()

    @rule(holding=leases, some=st.none() | st.sets(TASKS, max_size=8))
    def release(self, holding: Holding | None, some: set[int] | None) -> None:
        if holding is None:
            return
        back = self.ledger.release(holding.lease, some)
        assert back == (holding.tasks if some is None else holding.tasks & some)
        for task in back:
            self.states[task] = TaskState.PENDING
            self.attempts[task] -= 1
        holding.tasks -= back

    # --- what becomes of them -----------------------------------------------------------------------------------------

    @rule(holding=leases)
    def expire(self, holding: Holding | None) -> None:
        if holding is not None:
            let_expire(self.database, holding.lease.token)
            holding.expired = True

    @rule(pid=st.integers(1, 3))
    def die(self, pid: int) -> None:
        self.ledger.release_dead("here", lambda other: other != pid)
        for holding in self.held:
            if holding.lease.owner.startswith(f"here:{pid}:"):
                self.lose(holding)
        self.end_if_nothing_is_left()

    # --- what people do -----------------------------------------------------------------------------------------------

    @rule(tasks=st.sets(TASKS, max_size=5))
    def extend(self, tasks: set[int]) -> None:
        new = tasks - set(self.states)
        try:
            assert self.ledger.extend(self.run, tasks) == len(new)
        except LedgerError:
            assert self.state is not RunState.ACTIVE
            return
        assert self.state is RunState.ACTIVE or not tasks
        self.states |= dict.fromkeys(new, TaskState.PENDING)
        self.attempts |= dict.fromkeys(new, 0)

    @precondition(lambda self: self.state is not RunState.FINISHED)
    @rule(move=st.sampled_from(["cancel", "resume", "resume"]))
    def steer(self, move: str) -> None:
        if move == "cancel":
            self.ledger.cancel(self.run)
            self.state = RunState.CANCELLED
        else:
            self.ledger.resume(self.run)
            self.state = RunState.ACTIVE
            self.end_if_nothing_is_left()

    @precondition(lambda self: self.state in (RunState.ACTIVE, RunState.FINISHED))
    @rule(state=st.sampled_from([TaskState.FAILED, TaskState.SKIPPED]))
    def retry(self, state: TaskState) -> None:
        chosen = self.of(state)
        assert self.ledger.retry(self.run, {state}) == len(chosen)
        for task in chosen:
            self.states[task], self.attempts[task], self.ends[task] = TaskState.PENDING, 1, 0
        if chosen:
            self.state = RunState.ACTIVE

    # --- always -------------------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        records = self.ledger.records(self.run)
        assert {record.task: record.state for record in records} == self.states
        assert {record.task: record.attempts for record in records} == self.attempts
        counts = Counter(record.state for record in records)
        assert dict(self.ledger.progress(self.run).counts) == {state: counts[state] for state in TaskState}
        assert self.ledger.get(self.run).state is self.state
        waits = self.of(TaskState.PENDING) or any(holding.expired and holding.tasks for holding in self.held)
        listed = self.run in {run.id for run in self.ledger.unfinished()}
        assert listed == (self.state is RunState.ACTIVE and bool(waits))

    @invariant()
    def no_task_ends_twice(self) -> None:
        assert all(times <= 1 for times in self.ends.values())

    def teardown(self) -> None:
        """Whatever happened, a worker that lives brings the run to its end."""
        check(self.database, self.run)
        if self.state is not RunState.FINISHED:
            self.ledger.resume(self.run)
            let_expire(self.database)
            while taken := self.ledger.lease(self.run, "here:9:x", 50):
                assert len(taken.tasks) == 1 or max(taken.attempts.values()) <= SUSPECT
                self.ledger.finish(taken, [TaskResult(task, TaskState.DONE) for task in taken.tasks])
        assert self.ledger.get(self.run).state is RunState.FINISHED
        progress = self.ledger.progress(self.run)
        assert (progress.total, progress.left) == (len(self.states), 0)
        check(self.database, self.run)


def test_no_task_is_lost_and_none_ends_twice(database: Database) -> None:
    examples = 15 if database.is_sqlite else 8
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        type("WorkersHere", (Workers,), {"database": database}),
        settings=settings(max_examples=examples, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
