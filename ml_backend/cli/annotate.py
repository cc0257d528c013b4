"""``int-backend annotate``, and the runs that ``int-backend runs resume`` and ``retry`` go on with."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

from rich.console import Console

from ml_backend.cli.patience import look, outlast, wait_for_database
from ml_backend.cli.progress import say
from ml_backend.cli.watch import ConsoleLog, RunBar, summary
from ml_backend.context import AppContext
from ml_backend.runs.errors import LedgerError
from ml_backend.runs.manager import NO_LABEL_STUDIO, Runs, RunsError, Started
from ml_backend.runs.queues.base import NullQueue, QueueError, RunQueue
from ml_backend.runs.queues.local import LocalQueue
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.types import Progress, Run, RunKind, RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from ml_backend.storage.audit import Audit, operator

DONE, FAILED, INTERRUPTED = 0, 1, 130
_POLL = 0.5
_PREPARING_SECONDS = 150.0
_LONELY_SECONDS = 10.0
_ALONE = "no worker is there"
Begin = Callable[[AppContext, Runs, Callable[[], bool]], Started]
"""Makes the run; gets whether to stop."""

_MADE_ELSEWHERE = "its tasks are being listed by another process"


def run_annotate(
    settings: Settings,
    request: RunRequest,
    *,
    dry_run: bool = False,
    detach: bool = False,
    tell: Console,
    bar: Console,
    debug: bool,
) -> int:
    """Annotate a project; returns the exit status: 0, 1 if tasks failed or the run stopped, 130 if interrupted.

    Args:
        settings: of the environment.
        request: what the run is to do.
        dry_run: only count the tasks.
        detach: with Redis, return as soon as the run is made.
        tell: gets the results.
        bar: gets progress and warnings.
        debug: whether to log everything.

    Raises:
        ValueError, RuntimeError: it could not be started; the message is for people.
    """

    def begin(_context: AppContext, runs: Runs, stopping: Callable[[], bool]) -> Started:
        return runs.start(request, dry_run=dry_run, stopping=stopping)

    asked = None if dry_run else ("start", f"project {request.project}")
    return asyncio.run(run_and_watch(settings, begin, asked, detach=detach, tell=tell, bar=bar, debug=debug))


def run_again(
    settings: Settings,
    run_id: str,
    *,
    retry: frozenset[TaskState],
    detach: bool,
    tell: Console,
    bar: Console,
    debug: bool,
) -> int:
    """Go on with a run, or do its tasks in the states ``retry`` again; as `run_annotate`."""

    def begin(_context: AppContext, runs: Runs, _stopping: Callable[[], bool]) -> Started:
        if retry:
            count = runs.retry(run_id, retry)
            tell.print(f"run {run_id}: {count} tasks again", markup=False)
        else:
            runs.resume(run_id)
        run = runs.ledger.get(run_id)
        return Started(run, True, runs.ledger.progress(run_id).total, (), run.spec)

    asked = ("retry" if retry else "resume", f"run {run_id}")
    return asyncio.run(
        run_and_watch(settings, begin, asked, detach=detach, tell=tell, bar=bar, debug=debug, again=run_id)
    )


async def run_and_watch(
    settings: Settings,
    begin: Begin,
    asked: tuple[str, str] | None,
    *,
    detach: bool,
    tell: Console,
    bar: Console,
    debug: bool,
    again: str = "",
) -> int:
    """Have a run made, or gone on with (``again``), by ``begin``; do it here, or watch it; the exit status."""
    _log_to(bar, debug=debug)
    address = settings.redis_url.get_secret_value() if settings.redis_url else ""
    queue: RunQueue = _Watched(address, bar) if address else NullQueue()
    stop = asyncio.Event()
    tell_bar = functools.partial(say, bar)
    wait_for_database(settings, tell_bar)
    context = AppContext.open(settings, connected=True)
    try:
        if context.client is None:
            raise RunsError(NO_LABEL_STUDIO)
        async with _signals(stop, bar):
            if again and not address:
                await asyncio.to_thread(_must_suit, context, again)
            if asked is not None:
                await asyncio.to_thread(Audit(context.store.database).note, *operator(), *asked)
            try:
                started = await asyncio.to_thread(begin, context, context.runs(queue), stop.is_set)
            except RunsError as error:
                if not stop.is_set():
                    raise
                bar.print(str(error), markup=False, highlight=False, soft_wrap=True)
                return INTERRUPTED
            for line in _introduction(started, again=bool(again)):
                tell.print(line, markup=False, highlight=False, soft_wrap=True)
            for text in started.warnings:
                bar.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)
            if started.run is None:
                return DONE
            if address and detach:
                tell.print(f"watch it: int-backend runs show {started.run.id}", markup=False, highlight=False)
                return DONE
            if address:
                run = await _watch(context, started.run, stop, bar, queue=queue)
            else:
                run = await _do(context, started.run, stop, bar)
            report = functools.partial(_report, context, run, stop.is_set(), bool(address), tell)
            status = await asyncio.to_thread(look, report, tell_bar)
            if stop.is_set():
                _end_now(status)  # the models may be busy for minutes with work that is of no use any more
            return status
    finally:
        await context.close()
        queue.close()


def _must_suit(context: AppContext, run_id: str) -> None:
    spec, executors = context.ledger.get(run_id).spec, context.executors()
    kind = spec.kind
    why = executors[kind].unfit(spec) if kind in executors else f"this program does no runs of the kind '{kind.value}'"
    if why:
        raise RunsError(f"run {run_id} cannot be gone on with here: {why}")


async def _do(context: AppContext, run: Run, stop: asyncio.Event, bar: Console) -> Run:
    """Work on the run in this process until it ends or is to be stopped."""
    if run.state is RunState.FINISHED:
        return run
    await context.start()
    worker = context.worker(alone=True)
    queue = LocalQueue(worker.work, context.ledger, kinds=worker.kinds, only=frozenset({run.id}))
    queue.start()
    try:
        run = await _watch(context, run, stop, bar, local=True)
    finally:
        await worker.close()
        await queue.aclose()
    if stop.is_set():
        run = await asyncio.to_thread(_leave, context, run.id)
    return run


def _leave(context: AppContext, run_id: str) -> Run:
    """Interrupted: stop the run, unless others go on with it."""
    if not context.ledger.progress(run_id).workers:
        try:
            return context.ledger.stop(run_id, "interrupted")
        except LedgerError:
            pass  # its last task was finished at that moment, or it was cancelled
    return context.ledger.get(run_id)


class _Watched(RedisQueue):
    """The queue of one who watches: a Redis that is away is told, and waited for by the workers."""

    def __init__(self, url: str, bar: Console) -> None:
        super().__init__(url)
        self._bar = bar

    def wake(self, run_id: str) -> None:
        try:
            super().wake(run_id)
        except QueueError as error:
            say(self._bar, f"{error}; the workers come to run {run_id} once it is there")

    def nobody(self) -> bool:
        """Whether no worker is there, as far as can be said."""
        try:
            return not self.workers()
        except QueueError:
            return False


async def _watch(
    context: AppContext,
    run: Run,
    stop: asyncio.Event,
    console: Console,
    *,
    local: bool = False,
    queue: RunQueue | None = None,
) -> Run:
    """Show progress until the run ends or ``stop`` is set. A database that is away is waited for."""
    began, lonely, told = time.monotonic(), time.monotonic(), False
    with RunBar(console, run.id) as shown:
        while True:
            run, progress = await asyncio.to_thread(_seen, context, run.id, stop, console)
            loading = local and context.facilities.engine.status.state == "loading"
            preparing = run.state is RunState.PREPARING
            waiting = _MADE_ELSEWHERE if preparing else _ALONE if told else run.stage
            note = "loading the models" if loading else waiting
            shown.show_run(progress, note)
            if run.state not in (RunState.PREPARING, RunState.ACTIVE) or stop.is_set():
                return run
            if preparing and time.monotonic() - began > _PREPARING_SECONDS:
                raise RunsError(f"run {run.id} is still being prepared; if its process died, start it again")
            if progress.workers or not isinstance(queue, _Watched):
                lonely, told = time.monotonic(), False
            elif time.monotonic() - lonely > _LONELY_SECONDS and not told:
                told, lonely = await asyncio.to_thread(queue.nobody), time.monotonic()
                if told:
                    say(console, f"run {run.id} waits: {_ALONE}; start int-backend worker with this REDIS_URL")
            try:
                await asyncio.wait_for(stop.wait(), _POLL)
            except TimeoutError:
                continue


def _seen(context: AppContext, run_id: str, stop: asyncio.Event, console: Console) -> tuple[Run, Progress]:
    def read() -> tuple[Run, Progress]:
        return context.ledger.get(run_id), context.ledger.progress(run_id)

    return outlast(read, functools.partial(say, console), stopping=stop.is_set)


def _report(context: AppContext, run: Run, interrupted: bool, elsewhere: bool, tell: Console) -> int:
    progress = context.ledger.progress(run.id)
    failed = context.ledger.records(run.id, TaskState.FAILED)
    for line in summary(run, progress, failed):
        tell.print(line, markup=False, highlight=False, soft_wrap=True)
    if interrupted and run.state is RunState.ACTIVE:
        who = "the workers" if elsewhere else "another process"
        tell.print(f"{who} go on with it: int-backend runs show {run.id}", markup=False, highlight=False)
    if interrupted and run.state is not RunState.FINISHED:
        return INTERRUPTED
    return FAILED if failed or run.state is not RunState.FINISHED else DONE


def _introduction(started: Started, *, again: bool) -> list[str]:
    spec, run = started.spec, started.run
    what = f"looking for: {spec.prompt}; version {spec.model_version}"
    if spec.kind is RunKind.TRAIN and run is not None:
        how = "goes on" if again else "is under way already; joined it" if started.joined else "made"
        return [f"run {run.id} {how}: {spec.prompt}"]
    if run is None:
        return [f"{started.count} tasks would be annotated", what]
    how = "" if again else " is under way already; joined it" if started.joined else " made"
    return [f"run {run.id}{how}: {started.count} tasks of project {spec.project}", what]


@contextlib.asynccontextmanager
async def _signals(stop: asyncio.Event, bar: Console) -> AsyncIterator[None]:
    """Ctrl-C and SIGTERM set ``stop``; the second one ends the process at once."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def asked() -> None:
        if stop.is_set():
            _end_now(INTERRUPTED)
        stop.set()
        bar.print("stopping; once more to stop at once", markup=False)

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the process, and the run can be resumed
        for number in numbers:
            loop.add_signal_handler(number, asked)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


def _end_now(status: int) -> NoReturn:
    """End the process without waiting for its threads. The ledger has all that counts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _log_to(bar: Console, *, debug: bool) -> None:
    handler = ConsoleLog(bar)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if debug else "%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("int_model", "ml_backend"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING)
    if not debug:  # what is wrong with single tasks is in the ledger, and told at the end
        for name in ("ml_backend.serving.status", "ml_backend.serving.engine"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
