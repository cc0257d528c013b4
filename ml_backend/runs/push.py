"""Finished predictions on their way to Label Studio: in groups, never twice, for as long as it takes."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.calls import LabelStudioCalls
from ml_backend.runs.executors import Batch
from ml_backend.runs.listing import Existing, look_at
from ml_backend.runs.looks import Looks
from ml_backend.runs.types import TaskResult, TaskState

_log = logging.getLogger(__name__)
_GROUP = 64
_GROUP_BYTES = 16 * 1024 * 1024
_LINGER = 2.0
_LOOK_BYTES = 512 * 1024
_SLOW = 20.0  # seconds from the check of a lease to the answer, after which another worker may have pushed as well
_SAMPLE = 300
_MOST_DOUBTED = 10_000
_FOR_ALL = (401, 403, 404)
"""What Label Studio answers where not an item but the token or the project is at fault."""


@dataclass(slots=True, eq=False)
class Finished:
    """A prediction that is to be pushed, and the result that the ledger gets once it was."""

    batch: Batch
    result: TaskResult
    prediction: dict[str, Any]
    doubtful: bool = False  # it may have been pushed already
    size: int = 0
    acked: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.doubtful = self.batch.lease.attempts[self.result.task] > 1
        self.size = len(json.dumps(self.prediction, separators=(",", ":")))


class Pusher:
    """Pushes the predictions of one run, one group at a time. Lives in one event loop; `close` it there.

    A group goes when it is full, when its first prediction has waited two seconds, or after `flush`.
    Before every attempt the leases are renewed: what others have taken over meanwhile is left to them. After an
    attempt whose end is not known, Label Studio is first asked what arrived. A push that was doubtful or slow, or
    whose task turns out to be another worker's by now, is looked at afterwards: of two predictions one is removed.

    Args:
        client: without retries of its own.
        calls: makes them, and waits while Label Studio is away.
        project: the project's id.
        version: the run's model version.
        still_right: raises if the run must stop, e.g. as the labeling config was changed; asked before an item is
            called refused.
        linger: seconds that a prediction waits for company.
        clock: seconds that never go back; for tests.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        calls: LabelStudioCalls,
        project: int,
        version: str,
        *,
        still_right: Callable[[], Awaitable[None]],
        linger: float = _LINGER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.looks = Looks(client, calls, project, version)
        self._client = client
        self._calls = calls
        self._project = project
        self._version = version
        self._still_right = still_right
        self._linger = linger
        self._clock = clock
        self._waiting: list[Finished] = []
        self._pushed = 0
        self._sample: list[int] = []
        self._doubted: set[int] = set()
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def push(self, entry: Finished) -> bool:
        """Returns once the ledger knows; False if another worker has taken the task over.

        Raises:
            LabelStudioError: Label Studio refuses everything for good.
            WorkEndedError: the run is over, or the process is told to stop.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run())
        self._waiting.append(entry)
        self._news.set()
        if len(self._waiting) >= _GROUP:
            self._due.set()
        return await entry.acked

    @property
    def sample(self) -> frozenset[int]:
        """Tasks to look at again in the end: those whose push was doubtful, and up to 300 others by chance."""
        return frozenset(self._doubted.union(self._sample))

    def flush(self) -> None:
        """Push now what is waiting."""
        if self._waiting:
            self._due.set()

    async def close(self) -> None:
        """Stop; what was not pushed raises ``CancelledError`` where it is waited for."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for entry in self._waiting:
            entry.acked.cancel()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            try:
                async with asyncio.timeout(self._linger):
                    await self._due.wait()
            except TimeoutError:
                pass  # waited long enough for company
            self._due.clear()
            self._news.clear()
            while self._waiting:
                await self._one_group(self._take())

    def _take(self) -> list[Finished]:
        group = [self._waiting.pop(0)]
        size = group[0].size
        while self._waiting and len(group) < _GROUP and size + self._waiting[0].size <= _GROUP_BYTES:
            size += self._waiting[0].size
            group.append(self._waiting.pop(0))
        return group

    async def _one_group(self, group: list[Finished]) -> None:
        try:
            await self._send(group)
        except asyncio.CancelledError:
            for entry in group:
                entry.acked.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - everybody who waits for it gets it
            for entry in group:
                if not entry.acked.done():
                    entry.acked.set_exception(error)

    async def _send(self, group: list[Finished]) -> None:
        backoff = self._calls.backoff()
        while True:
            group, held_at = await self._held(group), self._clock()
            group = await self._without_arrived(group)
            if not group:
                return
            items = [{"task": entry.result.task, **entry.prediction} for entry in group]
            try:
                created = await self._calls.once(self._client.import_predictions, self._project, items)
            except LabelStudioError as error:
                if error.transient:
                    for entry in group:
                        entry.doubtful = entry.doubtful or not (error.unsent or error.status == 429)
                    await self._calls.wait(error, backoff)
                    continue
                if error.status in _FOR_ALL:
                    raise
                await self._one_by_one(group, str(error))
                return
            self._calls.reset()
            if self._clock() - held_at > _SLOW:
                for entry in group:
                    entry.doubtful = True
            if created >= len(group):
                await self._arrived(group, await self._look_after(group))
                return
            there = await self.looks.whole([entry.result.task for entry in group])
            await self._arrived([entry for entry in group if entry.result.task in there], there)
            rest = [entry for entry in group if entry.result.task not in there]
            await self._one_by_one(rest, "it does not fit Label Studio's labeling config; its log says why")
            return

    async def _without_arrived(self, group: list[Finished]) -> list[Finished]:
        """Those that are still to be pushed; doubtful ones that are there already are acknowledged."""
        doubtful = [entry for entry in group if entry.doubtful]
        if not doubtful:
            return group
        there, seen = await self._look(doubtful)
        await self._arrived([entry for entry in doubtful if entry.result.task in there], seen)
        return [entry for entry in group if not (entry.doubtful and entry.result.task in there)]

    async def _held(self, group: list[Finished]) -> list[Finished]:
        """Those that are still ours; the leases of these last for another push."""
        held = {batch: await batch.renew() for batch in {entry.batch for entry in group}}
        lost = [entry for entry in group if entry.result.task not in held[entry.batch]]
        for entry in lost:
            _log.info("task %d was taken over by another worker", entry.result.task)
            entry.acked.set_result(False)
        return [entry for entry in group if entry not in lost]

    async def _one_by_one(self, group: list[Finished], reason: str) -> None:
        """Find out which items Label Studio will not take, and why."""
        if not group:
            return
        await self._still_right()
        if len(group) > 1:
            for entry in group:
                await self._send([entry])
            return
        (entry,) = group
        task = entry.result.task
        there = await self._calls.call(look_at, self._client, self._project, [task], self._version)
        if task in there:
            text = f"Label Studio did not take the prediction: {reason}"[:500]
            result = replace(entry.result, state=TaskState.FAILED, score=None, reason=text)
        else:
            result = replace(entry.result, state=TaskState.SKIPPED, score=None, reason="the task was deleted")
        await self._ack_all([entry], [result])

    async def _look(self, group: list[Finished]) -> tuple[frozenset[int], dict[int, Existing]]:
        """The tasks that have their prediction, and what is known of it: masks as large as photos stay there."""
        tasks = [entry.result.task for entry in group]
        if sum(entry.size for entry in group) > _LOOK_BYTES:
            return await self.looks.light(tasks), {}
        seen = await self.looks.whole(tasks)
        return frozenset(seen), seen

    async def _look_after(self, group: list[Finished]) -> dict[int, Existing]:
        """The ids of what was just pushed, where that is cheap; what may be there twice is looked at in any case."""
        if sum(entry.size for entry in group) <= _LOOK_BYTES:
            return (await self._look(group))[1]
        if doubtful := [entry for entry in group if entry.doubtful]:
            await self._look(doubtful)
        return {}

    async def _arrived(self, group: list[Finished], there: dict[int, Existing]) -> None:
        results = []
        for entry in group:
            seen = there.get(entry.result.task)
            results.append(replace(entry.result, prediction=seen.id) if seen else entry.result)
            self._remember(entry)
        await self._ack_all(group, results)

    def _remember(self, entry: Finished) -> None:
        """Keep a fair sample of all pushes (reservoir sampling), and all doubtful ones up to a limit."""
        task, self._pushed = entry.result.task, self._pushed + 1
        if entry.doubtful and len(self._doubted) < _MOST_DOUBTED:
            self._doubted.add(task)
        if len(self._sample) < _SAMPLE:
            self._sample.append(task)
        elif (place := random.randrange(self._pushed)) < _SAMPLE:  # noqa: S311 only chooses what is looked at
            self._sample[place] = task

    async def _ack_all(self, group: list[Finished], results: list[TaskResult]) -> None:
        by_batch: dict[Batch, list[TaskResult]] = {}
        for entry, result in zip(group, results, strict=True):
            by_batch.setdefault(entry.batch, []).append(result)
        refused: set[int] = set()
        for batch, own in by_batch.items():
            refused |= {result.task for result in own} - await batch.ack(own)
        if refused:
            await self.looks.light(refused)  # who has taken them over may have pushed as well
        for entry in group:
            if not entry.acked.done():
                entry.acked.set_result(True)
