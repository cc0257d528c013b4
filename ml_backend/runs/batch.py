"""Does the work of a run: leases tasks, annotates them, pushes the predictions, and tells the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from int_model.io.errors import ImageError
from ml_backend.fetching.images import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.label_config import ConfigError
from ml_backend.labelstudio.task_prompt import PromptError
from ml_backend.runs.annotating import PatientService, RunStopError
from ml_backend.runs.calls import LabelStudioCalls, LedgerCalls, WorkEndedError
from ml_backend.runs.ledger import Ledger, LedgerError
from ml_backend.runs.listing import Existing, TaskView, existing, look_at
from ml_backend.runs.push import Finished, Pusher
from ml_backend.runs.triage import pushed_before, triage
from ml_backend.runs.types import Lease, Run, RunSpec, RunState, TaskResult, TaskState
from ml_backend.serving.engine import EngineError
from ml_backend.serving.plan import Plan
from ml_backend.serving.service import Answer, Service
from ml_backend.storage.database import StoreError

_log = logging.getLogger(__name__)
_OF_THE_TASK = (ConfigError, EngineError, FetchError, ImageError, PromptError)
_GRACE = 5.0
_LOOK = 3.0  # seconds between looks whether the run was cancelled
_KNOWN_RUNS = 64


@dataclass(slots=True, eq=False)
class _Job:
    """A run that this process has worked on."""

    spec: RunSpec
    plan: Plan | None
    why: str  # why there is no plan: this worker must leave the run alone
    calls: LabelStudioCalls
    pusher: Pusher
    checked: float = -1e9


@dataclass(slots=True, eq=False)
class _Batch:
    """One lease at work: which tasks the ledger has results of, how many are still being annotated."""

    lease: Lease
    acked: set[int] = field(default_factory=set)
    pushing: set[int] = field(default_factory=set)
    annotating: int = 0


class BatchWorker:
    """Works on runs for one process; lives in the event loop of its `Service`. Close it before the service.

    Args:
        service: annotates.
        ledger: hands out tasks.
        client: Label Studio, without retries of its own; `make_batch_client` makes it.
        owner: ``host:pid:random`` (`owners.new_owner`).
        size: most tasks of one lease.
        alone: whether no other worker could do what this one cannot; a run that does not suit it is then stopped with
            the reason, rather than left to others.
        heartbeat: seconds between renewals of a lease; None for a quarter of the time that the ledger gives.
        check_config: seconds for which the project's labeling config counts as unchanged.
        sleep: waits; for tests.
    """

    def __init__(
        self,
        service: Service,
        ledger: Ledger,
        client: LabelStudioClient,
        owner: str,
        *,
        size: int = 16,
        alone: bool = False,
        heartbeat: float | None = None,
        check_config: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.owner = owner
        self._service = service
        self._ledger = ledger
        self._client = client
        self._size = size
        self._alone = alone
        self._heartbeat = ledger.lease_seconds / 4 if heartbeat is None else heartbeat
        self._check_every = check_config
        self._sleep = sleep or self._sleep_or_stop
        self._jobs: dict[str, _Job] = {}
        self._stopping = asyncio.Event()
        self._at_work = 0
        self._last_end = 0.0
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="runs-http")
        self._ledger_calls = LedgerCalls()

    # --- for queues

    async def work(self, run_id: str) -> bool:
        """Use one ticket: lease tasks of the run and see them through. Whether more may be left for us.

        What goes wrong is logged, or in the ledger; tasks that could not be finished go back. Never raises but
        ``UnknownRunError`` and ``StoreError``, where the ledger cannot be used.
        """
        if self._stopping.is_set():
            return False
        self._at_work += 1
        try:
            run = await self._ledger_calls.call(self._ledger.get, run_id)
            if run.state is not RunState.ACTIVE:
                return False
            job = await self._job(run)
            if job.plan is None:
                if self._alone:
                    await self._stop_run(run_id, job.why)
                return False
            try:
                await self._check(job)
                lease = await self._ledger_calls.call(self._ledger.lease, run_id, self.owner, self._size)
                if lease is None:
                    return False
                async with self._beating(lease):
                    await self._work_on(job, job.plan, lease)
                await self._after(run_id, job)
            except WorkEndedError:
                return False
            except RunStopError as error:
                await self._stop_run(run_id, str(error))
                return False
            except LabelStudioError as error:
                await self._stop_run(run_id, str(error))
                return False
            return not self._stopping.is_set()
        finally:
            self._at_work -= 1

    def suits(self, run_id: str) -> bool:
        """Whether this process's models and settings are those of the run. Blocking; from any thread.

        Raises:
            UnknownRunError, StoreError: the ledger does not know the run, or cannot be used.
        """
        return self._plan_for(self._ledger.get(run_id).spec)[0] is not None

    async def close(self) -> None:
        """Take no more; what is pushed is finished within seconds, all other tasks go back to the ledger."""
        self._stopping.set()
        until = time.monotonic() + 3 * _GRACE
        while self._at_work and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for job in self._jobs.values():
            await job.pusher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._ledger_calls.close()

    # --- a run

    async def _job(self, run: Run) -> _Job:
        known = self._jobs.get(run.id)
        if known is not None:
            return known
        plan, why = await asyncio.to_thread(self._plan_for, run.spec)
        if run.id in self._jobs:  # another ticket was quicker
            return self._jobs[run.id]
        if plan is None:
            _log.warning("run %s is left to others: %s", run.id, why)
        calls = LabelStudioCalls(self._threads, lambda: self._over(run.id), self._sleep)
        spec = run.spec

        async def still_right() -> None:
            job.checked = -1e9
            await self._check(job)

        pusher = Pusher(
            self._client,
            calls,
            spec.project,
            spec.model_version,
            renew=lambda lease: self._ledger_calls.call(self._ledger.renew, lease),
            ack=self._ack,
            still_right=still_right,
        )
        job = _Job(spec, plan, why, calls, pusher)
        while len(self._jobs) >= _KNOWN_RUNS:
            await self._jobs.pop(next(iter(self._jobs))).pusher.close()
        self._jobs[run.id] = job
        return job

    def _plan_for(self, spec: RunSpec) -> tuple[Plan | None, str]:
        try:
            plan = self._service.plan(spec.label_config, spec.extra_params)
        except ConfigError as error:
            return None, str(error)
        if plan.version != spec.model_version:
            return None, (
                f"the run is for {spec.model_version}, and the models and settings here make {plan.version}; use the "
                "profile, strategy and settings that the run was made with, or make a new run"
            )
        return plan, ""

    async def _check(self, job: _Job) -> None:
        """Raises ``RunStopError`` if the labeling config is no longer the run's."""
        if time.monotonic() - job.checked < self._check_every:
            return
        project = await job.calls.call(self._client.project, job.spec.project)
        if config_hash(str(project.get("label_config") or "")) != job.spec.config_hash:
            raise RunStopError(
                "the project's labeling config was changed during the run; start a new run, which takes what is missing"
            )
        job.checked = time.monotonic()

    async def _over(self, run_id: str) -> bool:
        if self._stopping.is_set():
            return True
        return (await self._ledger_calls.call(self._ledger.get, run_id)).state is not RunState.ACTIVE

    async def _stop_run(self, run_id: str, why: str) -> None:
        _log.warning("run %s stops: %s", run_id, why)
        try:
            await self._ledger_calls.call(self._ledger.stop, run_id, why)
        except LedgerError as error:
            _log.info("%s", error)  # somebody else has ended it meanwhile

    async def _after(self, run_id: str, job: _Job) -> None:
        """Whoever finishes the last task lets the project show the run's version, if that was asked for."""
        if not job.spec.request.set_model_version:
            return
        if (await self._ledger_calls.call(self._ledger.get, run_id)).state is RunState.FINISHED:
            change = {"model_version": job.spec.model_version}
            try:
                await job.calls.call(self._client.update_project, job.spec.project, change)
            except LabelStudioError as error:
                _log.warning("the project's model version could not be set: %s", error)

    # --- a lease

    async def _work_on(self, job: _Job, plan: Plan, lease: Lease) -> None:
        batch = _Batch(lease)
        tasks: dict[int, asyncio.Task[None]] = {}
        stop = asyncio.create_task(self._stopping.wait())
        try:
            for view in await self._wanted(job, batch):
                batch.annotating += 1
                tasks[view.task.id or 0] = asyncio.create_task(self._one(job, plan, batch, view))
            await self._all_or_stop(job, batch, tasks, stop)
        finally:
            stop.cancel()
            for work in tasks.values():
                work.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            left = frozenset(lease.tasks) - batch.acked
            if left:
                await self._give_back(lease, left)

    async def _all_or_stop(
        self, job: _Job, batch: _Batch, tasks: dict[int, asyncio.Task[None]], stop: asyncio.Task[Any]
    ) -> None:
        """Wait for all tasks, the first that says the run cannot go on, its cancellation, or the process's end."""
        pending = set(tasks.values())
        looked = time.monotonic()
        while pending and not stop.done():
            awaited = {*pending, stop}
            finished, _ = await asyncio.wait(awaited, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            pending -= finished
            for work in finished - {stop}:
                work.result()
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                if await self._over(batch.lease.run):
                    break
        if pending:
            for task, work in tasks.items():
                if task not in batch.pushing:
                    work.cancel()
            job.pusher.flush()
            await asyncio.wait(pending, timeout=_GRACE)

    async def _wanted(self, job: _Job, batch: _Batch) -> list[TaskView]:
        """Look at the lease's tasks just before the work; what needs none gets its result at once."""
        spec, lease = job.spec, batch.lease
        views = await job.calls.call(look_at, self._client, spec.project, lease.tasks, spec.model_version)
        there: dict[int, list[Existing]] = {}
        if again := pushed_before(lease, views):
            there = await job.calls.call(existing, self._client, spec.project, again, spec.model_version)
        wanted, results = triage(spec.request, lease, views, there)
        if results:
            await self._ack(lease, results)
            batch.acked |= {result.task for result in results}
        return wanted

    async def _one(self, job: _Job, plan: Plan, batch: _Batch, view: TaskView) -> None:
        task, started = view.task.id or 0, time.monotonic()
        try:
            try:
                answer: Answer | None = await self._patient(job).annotate(view.task, plan)
                reason = answer.reason if answer else ""
            except _OF_THE_TASK as error:
                answer, reason = None, " ".join(str(error).split())[:500]
            except (WorkEndedError, RunStopError, LabelStudioError, StoreError):
                raise
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                raise WorkEndedError from None  # the service is being closed
            except Exception as error:  # noqa: BLE001 - one task must not end a run of thousands
                answer, reason = None, f"unexpected {type(error).__name__}; the log says more"
        finally:
            batch.annotating -= 1
        seconds = self._seconds(started)
        if answer is None:
            await self._ack(batch.lease, [TaskResult(task, TaskState.FAILED, reason=reason, seconds=seconds)])
        else:
            prediction = answer.prediction.as_json()
            state = TaskState.DONE if prediction["result"] else TaskState.ABSTAINED
            result = TaskResult(task, state, answer.prediction.score, reason, seconds)
            batch.pushing.add(task)
            pushed = asyncio.ensure_future(job.pusher.push(Finished(batch.lease, result, prediction)))
            await asyncio.sleep(0)
            self._maybe_flush(job, batch)
            await pushed
        batch.acked.add(task)
        self._maybe_flush(job, batch)

    def _maybe_flush(self, job: _Job, batch: _Batch) -> None:
        if batch.annotating == 0:  # nothing of this lease is worth waiting for
            job.pusher.flush()

    def _seconds(self, started: float) -> float:
        """This task's share of the time: since the one before it ended, so that a run's tasks add up to its time."""
        now = time.monotonic()
        began = max(started, self._last_end)
        self._last_end = now
        return round(now - began, 3)

    def _patient(self, job: _Job) -> PatientService:
        return PatientService(
            self._service,
            lambda: job.calls.call(self._client.request, "GET", "/api/version"),
            self._sleep,
            self._stopping.is_set,
            alone=self._alone,
        )

    async def _ack(self, lease: Lease, results: Sequence[TaskResult]) -> None:
        accepted = await self._ledger_calls.call(self._ledger.finish, lease, list(results))
        for result in results:
            if result.task not in accepted:
                _log.info("task %d was taken over before it was finished here", result.task)

    async def _give_back(self, lease: Lease, tasks: frozenset[int]) -> None:
        try:
            await self._ledger_calls.call(self._ledger.release, lease, tasks)
        except (StoreError, LedgerError) as error:
            _log.warning("tasks could not be given back, others take them when the lease expires: %s", error)

    @contextlib.asynccontextmanager
    async def _beating(self, lease: Lease) -> AsyncIterator[None]:
        """Keep the lease for as long as the block runs."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(self._heartbeat)
                try:
                    await self._ledger_calls.once(self._ledger.renew, lease)
                except StoreError as error:
                    _log.warning("a lease could not be renewed: %s", error)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()

    async def _sleep_or_stop(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def config_hash(label_config: str) -> str:
    """What a labeling config is recognised by."""
    return hashlib.sha256(label_config.encode("utf-8", "surrogatepass")).hexdigest()
