"""The ledger of batch runs: which task is pending, leased, or final. The database is the truth, and its clock counts.

A lease is a row of its own. Finishing, renewing and releasing lock that row first; taking over removes it. So a task
has one holder at a time, and who comes back late finds its lease gone and changes nothing. Rows are locked in the
order lease, tasks, run, always, so that no two wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ml_backend.runs import rows, throughput
from ml_backend.runs.errors import LedgerError, RunExistsError, UnknownRunError
from ml_backend.runs.owners import pid_of
from ml_backend.runs.rows import Counts, key_of
from ml_backend.runs.types import Lease, Progress, Run, RunKind, RunSpec, RunState, TaskRecord, TaskResult, TaskState
from ml_backend.storage.database import Database, StoreError, epoch_now
from ml_backend.storage.tables import LeaseRow, RunRow, TaskRow

_UNDER_WAY = (RunState.PREPARING.value, RunState.ACTIVE.value)
_FINAL = frozenset({TaskState.DONE, TaskState.ABSTAINED, TaskState.FAILED, TaskState.SKIPPED})
_AGAIN = frozenset({TaskState.FAILED, TaskState.SKIPPED})
_RUNS = RunRow.__table__


class _UndoError(Exception):
    """Leaves a transaction without its changes."""


class Ledger:
    """Runs and their tasks. Blocking, and safe between threads, processes and machines.

    Args:
        database: not closed by the ledger.
        lease_seconds: until tasks of a silent worker may be taken over.

    Every method raises ``StoreError`` if the database cannot be used, and ``UnknownRunError`` for an unknown run.
    """

    def __init__(self, database: Database, *, lease_seconds: float = 120) -> None:
        self._database = database
        self.lease_seconds = lease_seconds

    # --- making runs --------------------------------------------------------------------------------------------------

    def create(self, spec: RunSpec, task_ids: Iterable[int]) -> Run:
        """Make a run of these tasks; it is handed out once all are in. An empty one is finished at once.

        Args:
            spec: what it does.
            task_ids: in any order, repeated ones count once. May be slow, as a server's pages are, but not silent for
                `lease_seconds`: then its maker counts as dead and may be replaced.

        Raises:
            RunExistsError: one of this version is under way on this project.
            LedgerError: it was cancelled or replaced while its tasks were listed.
            Exception: whatever ``task_ids`` raises; nothing is left of the run then.
        """
        key = self._begin(spec)
        try:
            for chunk in rows.chunks(task_ids):
                self._add(key, chunk, RunState.PREPARING)
            return self._activate(key)
        except BaseException:
            with self._database.write() as connection:
                rows.forget(connection, RunRow.id == key)
            raise

    def extend(self, run_id: str, task_ids: Iterable[int]) -> int:
        """Add tasks to an active run; those that it has are left as they are. Returns how many are new.

        Raises:
            LedgerError: the run is not active.
        """
        return sum(self._add(key_of(run_id), chunk, RunState.ACTIVE) for chunk in rows.chunks(task_ids))

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, run_id: str) -> Run:
        """One run."""
        with self._database.read() as connection:
            row = connection.execute(select(_RUNS).where(RunRow.id == key_of(run_id))).one_or_none()
        if row is None:
            raise UnknownRunError(run_id)
        return rows.run_of(row)

    def runs(self, project: int | None = None, limit: int = 50) -> list[Run]:
        """The newest runs, newest first; of one project or of all."""
        wanted = select(_RUNS).order_by(RunRow.id.desc()).limit(limit)
        if project is not None:
            wanted = wanted.where(RunRow.project == project)
        with self._database.read() as connection:
            return [rows.run_of(row) for row in connection.execute(wanted)]

    def unfinished(self, kinds: Collection[RunKind] = tuple(RunKind)) -> list[Run]:
        """Active runs of these kinds that have a task to lease: a pending one, or one whose lease has expired.

        Oldest first.
        """
        expired = exists().where(LeaseRow.run == RunRow.id, LeaseRow.expires_at < epoch_now())
        active = (RunRow.state == RunState.ACTIVE.value, RunRow.kind.in_([kind.value for kind in kinds]))
        wanted = select(_RUNS).where(*active, or_(RunRow.pending > 0, expired)).order_by(RunRow.id)
        with self._database.read() as connection:
            return [rows.run_of(row) for row in connection.execute(wanted)]

    def progress(self, run_id: str) -> Progress:
        """Counts, rate and workers, without looking at the tasks."""
        key = key_of(run_id)
        with self._database.read() as connection:
            row = connection.execute(select(_RUNS).where(RunRow.id == key)).one_or_none()
            if row is None:
                raise UnknownRunError(run_id)
            workers, silent, free_in = throughput.hands(connection, key, self.lease_seconds)
            rate = throughput.rate(connection, key, row.finished_at)
        return Progress({state: getattr(row, state.value) for state in TaskState}, rate, workers, silent, free_in)

    def records(
        self, run_id: str, state: TaskState | None = None, after: int = 0, limit: int = 100
    ) -> list[TaskRecord]:
        """Tasks with an id above ``after``, ascending, at most ``limit``; of one state or of all."""
        self.get(run_id)
        wanted = (
            select(TaskRow.__table__)
            .where(TaskRow.run == key_of(run_id), TaskRow.task > after)
            .order_by(TaskRow.task)
            .limit(limit)
        )
        if state is not None:
            wanted = wanted.where(TaskRow.state == state.value)
        with self._database.read() as connection:
            return [rows.record_of(row) for row in connection.execute(wanted)]

    # --- working ------------------------------------------------------------------------------------------------------

    def lease(self, run_id: str, owner: str, count: int) -> Lease | None:
        """Take up to ``count`` tasks, lowest ids first, for `lease_seconds`; expired leases are taken over.

        A task that was leased `MOST_ATTEMPTS` times without a result fails instead; from `SUSPECT` times on it is
        leased alone, to an owner that holds nothing else.

        Args:
            run_id: the run.
            owner: ``host:pid:random`` (`owners.new_owner`).
            count: at least 1.

        Returns:
            The lease, or None: there is nothing to take now, or the run is not active.
        """
        with suppress(_UndoError):
            return self._lease(key_of(run_id), owner, count)
        return None

    def renew(self, lease: Lease) -> frozenset[int]:
        """Extend a lease by `lease_seconds` from now; returns the tasks that are still held, empty if it is lost.

        A lease that has expired, but was not taken over, lives on.
        """
        with self._database.write() as connection:
            held = rows.held(connection, lease)
            if held:
                later = {"expires_at": epoch_now() + self.lease_seconds}
                connection.execute(update(LeaseRow).where(LeaseRow.id == int(lease.token)).values(later))
        return frozenset(held)

    def finish(self, lease: Lease, results: Iterable[TaskResult]) -> frozenset[int]:
        """Write results; the run is finished when nothing is left.

        Results count whatever the run's state is: the work is done.

        Returns:
            The tasks whose results were taken. Others are no longer held under this lease: someone else has them.

        Raises:
            ValueError: a result's state is not final.
        """
        given = {result.task: result for result in results}
        if wrong := [result for result in given.values() if result.state not in _FINAL]:
            raise ValueError(f"task {wrong[0].task} cannot be finished as {wrong[0].state.value}")
        key = int(lease.run)
        with self._database.write() as connection:
            held = rows.held(connection, lease)
            taken = [given[task] for task in held if task in given]
            if not taken:
                return frozenset()
            rows.write_results(connection, key, taken)
            if len(taken) == len(held):
                rows.drop_lease(connection, lease)
            counts = Counts(result.state for result in taken)
            counts[TaskState.LEASED] -= len(taken)
            rows.settle(connection, key, counts)
            throughput.add(connection, self._database, key, len(taken))
        return frozenset(result.task for result in taken)

    def release(self, lease: Lease, tasks: Collection[int] | None = None) -> frozenset[int]:
        """Give tasks back, all by default, as if they had not been leased. Returns those that were still held."""
        with self._database.write() as connection:
            held = rows.held(connection, lease)
            back = [task for task in held if tasks is None or task in tasks]
            if not back:
                return frozenset()
            rows.give_back(connection, lease, back)
            if len(back) == len(held):
                rows.drop_lease(connection, lease)
            moved = Counts({TaskState.LEASED: -len(back), TaskState.PENDING: len(back)})
            rows.settle(connection, int(lease.run), moved, rows.look_from(min(back)))
        return frozenset(back)

    def release_dead(self, host: str, alive: Callable[[int], bool]) -> int:
        """Take the leases of this host's dead processes away at once, rather than when they expire.

        Args:
            host: as it stands in owners, see `owners.this_host`.
            alive: whether a process id lives (`owners.process_lives`).

        Returns:
            How many leases were taken away. Their attempts count: the worker died.
        """
        with self._database.read() as connection:
            found = connection.execute(
                select(LeaseRow.id, LeaseRow.run, LeaseRow.owner).where(
                    LeaseRow.owner.startswith(f"{host}:", autoescape=True)
                )
            ).all()
        dead = [row for row in found if (pid := pid_of(row.owner)) is not None and not alive(pid)]
        for row in dead:
            with self._database.write() as connection:
                counts, back = rows.reap(connection, LeaseRow.id == row.id)
                rows.settle(connection, row.run, counts, {} if back is None else rows.look_from(back))
        return len(dead)

    # --- steering -----------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str) -> Run:
        """Hand out no more tasks; what is leased may still be finished. Again: nothing happens.

        Raises:
            LedgerError: it is finished.
        """
        refused = {RunState.FINISHED: "there is nothing to cancel"}
        return self._move(run_id, RunState.CANCELLED, refused, "")

    def stop(self, run_id: str, why: str) -> Run:
        """Like `cancel`, by the backend and with a reason. Again: the first reason stays.

        Raises:
            LedgerError: it is finished or cancelled.
        """
        refused = dict.fromkeys((RunState.FINISHED, RunState.CANCELLED), "there is nothing to stop")
        return self._move(run_id, RunState.STOPPED, refused, rows.clean(why))

    def resume(self, run_id: str) -> Run:
        """Go on with a stopped or cancelled run. An active one, whose workers died say, goes on anyway.

        Raises:
            LedgerError: it is finished, or its tasks were never listed in full.
            RunExistsError: another run of this version has begun on this project since.
        """
        refused = {
            RunState.FINISHED: "`runs retry` does what failed again",
            RunState.PREPARING: "its tasks are being listed; wait, or cancel it and start it again",
        }
        return self._move(run_id, RunState.ACTIVE, refused, "")

    def retry(self, run_id: str, states: Collection[TaskState] = frozenset({TaskState.FAILED})) -> int:
        """Make final tasks of these states pending again; a finished run becomes active.

        Args:
            run_id: an active or finished run.
            states: failed ones, skipped ones, or both. Done and abstained ones have their prediction.

        Returns:
            How many tasks will be done again.

        Raises:
            LedgerError: the run is stopped, cancelled or being prepared, or another state was asked for.
            RunExistsError: another run of this version is under way on this project.
        """
        if wrong := set(states) - _AGAIN:
            raise LedgerError(f"tasks that are {min(s.value for s in wrong)} cannot be done again; failed, skipped can")
        key, counts = key_of(run_id), Counts()
        with self._only_one(run_id), self._database.write() as connection:
            state = rows.state_of(connection, key, lock=True)
            if state not in (RunState.ACTIVE, RunState.FINISHED):
                raise LedgerError(f"run {run_id} is {state.value}; resume it first")
            for name in sorted(states):
                counts[name] -= rows.again(connection, key, name)
            number = -counts.total()
            if number:
                active = {"state": RunState.ACTIVE.value, "finished_at": None, "why": "", "next_task": 0}
                connection.execute(update(RunRow).where(RunRow.id == key).values(active))
                counts[TaskState.PENDING] += number
                rows.settle(connection, key, counts)
        return number

    # --- inside -------------------------------------------------------------------------------------------------------

    def _lease(self, key: int, owner: str, count: int) -> Lease | None:
        expired = (LeaseRow.run == key) & (LeaseRow.expires_at < epoch_now())
        with self._database.write() as connection:
            front = rows.front_of(connection, key)
            if front.state is not RunState.ACTIVE:
                return None
            counts, back = rows.reap(connection, expired)
            first = front.next_task if back is None else min(front.next_task, back)
            chosen = rows.choose(connection, key, owner, count, first, front.pending + counts[TaskState.PENDING])
            lease = rows.grant(connection, key, owner, chosen, self.lease_seconds) if chosen else None
            counts[TaskState.PENDING] -= len(chosen)
            counts[TaskState.LEASED] += len(chosen)
            where = rows.look_from(min(chosen, default=first), front.next_task)
            if any(counts.values()) and not rows.settle(connection, key, counts, where, only=RunState.ACTIVE):
                raise _UndoError  # it left that state a moment ago
        return lease

    def _begin(self, spec: RunSpec) -> int:
        now, silent = epoch_now(), RunRow.touched_at < epoch_now() - self.lease_seconds
        values = {
            "project": spec.project,
            "model_version": spec.model_version,
            "kind": spec.kind.value,
            "spec": spec.as_text(),
            "state": RunState.PREPARING.value,
            "created_at": now,
            "touched_at": now,
        }
        with self._only_one(spec), self._database.write() as connection:
            rows.forget(connection, (RunRow.project == spec.project) & silent)
            return connection.execute(insert(RunRow).values(values).returning(RunRow.id)).scalar_one()

    def _add(self, key: int, tasks: list[int], state: RunState) -> int:
        with self._database.write() as connection:
            new = rows.add_tasks(connection, key, tasks)
            # After the tasks, as everywhere; if the run moved on, the exception takes the tasks back.
            more = {"touched_at": epoch_now(), **rows.look_from(min(tasks))}
            self._expect(rows.settle(connection, key, Counts({TaskState.PENDING: new}), more, only=state), key)
        return new

    def _activate(self, key: int) -> Run:
        ready = {"state": RunState.ACTIVE.value, "listed": True}
        preparing = (RunRow.id == key, RunRow.state == RunState.PREPARING.value)
        with self._database.write() as connection:
            self._expect(connection.execute(update(RunRow).where(*preparing).values(ready)).rowcount == 1, key)
            rows.settle(connection, key, Counts())  # nothing to do: finished
        return self.get(str(key))

    def _expect(self, as_expected: bool, key: int) -> None:
        if not as_expected:
            raise LedgerError(f"run {key} takes no more tasks: {self._standing(key)}")

    def _standing(self, key: int) -> str:
        with self._database.read() as connection:
            state = connection.scalar(select(RunRow.state).where(RunRow.id == key))
        return f"it is {state}" if state else "it was silent for too long while its tasks were listed; start it again"

    def _move(self, run_id: str, to: RunState, refused: dict[RunState, str], why: str) -> Run:
        key = key_of(run_id)
        with self._only_one(run_id), self._database.write() as connection:
            row = connection.execute(
                select(RunRow.state, RunRow.listed).where(RunRow.id == key).with_for_update()
            ).one_or_none()
            if row is None:
                raise UnknownRunError(run_id)
            state = RunState(row.state)
            if state in refused:
                raise LedgerError(f"run {run_id} is {state.value}; {refused[state]}")
            if to is RunState.ACTIVE and not row.listed:
                raise LedgerError(
                    f"run {run_id} is {state.value}, and its tasks were never listed in full; start it again"
                )
            if state is not to:
                connection.execute(update(RunRow).where(RunRow.id == key).values(state=to.value, why=why))
                rows.settle(connection, key, Counts())
        return self.get(run_id)

    @contextmanager
    def _only_one(self, wanted: str | RunSpec) -> Iterator[None]:
        """Say which other run of that version is under way where the database refuses a second one."""
        try:
            yield
        except StoreError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            spec = wanted if isinstance(wanted, RunSpec) else self.get(wanted).spec
            same = (
                RunRow.project == spec.project,
                RunRow.kind == spec.kind.value,
                RunRow.model_version == spec.model_version,
            )
            with self._database.read() as connection:
                row = connection.execute(select(_RUNS).where(*same, RunRow.state.in_(_UNDER_WAY))).one_or_none()
            if row is None:
                raise LedgerError("another run of this version ended a moment ago; try again") from error
            raise RunExistsError(rows.run_of(row)) from error
