"""What a pusher asks of Label Studio: how many requests, in which groups, when it looks first, how long it waits."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ml_backend.backoff import Backoff
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.calls import LabelStudioCalls
from ml_backend.runs.push import Finished, Pusher
from ml_backend.runs.types import Lease, TaskResult, TaskState

VERSION = "int-nano-int-00c0ffee"
LATE = 504
SMALL, ABOVE_LOOK, SIX_MB = 100, 600 * 1024, 6 * 1024 * 1024


def unsent() -> LabelStudioError:
    return LabelStudioError("no connection", unsent=True)


class LabelStudio:
    """Keeps predictions; ``faults`` are what the next pushes meet: an error, and whether they arrive all the same."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.groups: list[list[int]] = []
        self.kept: dict[int, list[dict[str, Any]]] = {}
        self.faults: list[tuple[LabelStudioError | None, frozenset[int] | None]] = []
        self.late: list[dict[str, Any]] = []  # of a push without an answer: arrive with the next one
        self.numbers = itertools.count(1000)
        self.meanwhile: Callable[[], Any] = lambda: None
        self.deleted: set[int] = set()

    def import_predictions(self, project: int, items: list[dict[str, Any]]) -> int:
        self.requests.append("push")
        self.groups.append([item["task"] for item in items])
        error, lost = self.faults.pop(0) if self.faults else (None, frozenset())
        kept = [item for item in items if lost is not None and item["task"] not in lost]
        self.meanwhile()
        for item in [*kept, *self.late]:
            self.kept.setdefault(item["task"], []).append({"id": next(self.numbers), **item, "result": []})
        self.late = items if error is not None and error.status == LATE else []
        if error is not None:
            raise error
        return len(kept)

    def tasks_page(self, project: int, page: int, size: int, *, query: Any, whole: bool = False) -> list[Any]:
        included = query["selectedItems"]["included"]
        if "filters" in query:
            self.requests.append("look" if whole else "glance")
            included = [task for task in included if self.kept.get(task)]
        else:
            self.requests.append("tasks")
        return [self._row(task, self.kept.get(task, [])) for task in included if task not in self.deleted]

    def _row(self, task: int, kept: list[dict[str, Any]]) -> dict[str, Any]:
        names = ",".join({entry["model_version"] for entry in kept})
        return {
            "id": task,
            "data": {},
            "predictions": kept,
            "total_predictions": len(kept),
            "predictions_model_versions": names,
        }

    def delete_prediction(self, number: int) -> None:
        self.requests.append("delete")
        self.kept = {task: [one for one in kept if one["id"] != number] for task, kept in self.kept.items()}


def filled(size: int) -> dict[str, Any]:
    """A prediction of about so many bytes."""
    return {"result": [{"rle": "x" * size}], "score": 0.5, "model_version": VERSION}


EMPTY = len(json.dumps(filled(0), separators=(",", ":")))


class HeldBatch:
    """A batch whose lease is not lost before the tasks of ``lost`` are acknowledged, or those of ``taken`` pushed."""

    def __init__(
        self, lease: Lease, acked: dict[int, TaskResult], lost: frozenset[int], taken: frozenset[int] = frozenset()
    ) -> None:
        self.lease = lease
        self.acked = acked
        self.lost = lost
        self.taken = taken

    async def renew(self) -> frozenset[int]:
        return frozenset(self.lease.attempts) - self.taken

    async def ack(self, results: Sequence[TaskResult]) -> frozenset[int]:
        accepted = {result.task: result for result in results if result.task not in self.lost}
        self.acked |= accepted
        return frozenset(accepted)


class Bench:
    """A pusher over that Label Studio; waiting takes no time."""

    def __init__(self, server: LabelStudio) -> None:
        self.server = server
        self.waits: list[float] = []
        self.acked: dict[int, TaskResult] = {}
        self.lost: frozenset[int] = frozenset()
        self.taken: frozenset[int] = frozenset()
        self.wrong: Exception | None = None  # raised where it is asked whether the run is still right
        self.now = 0.0
        self.pusher: Any = None

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def ended(self) -> bool:
        return False

    async def right(self) -> None:
        if self.wrong is not None:
            raise self.wrong

    def made(self, threads: ThreadPoolExecutor, linger: float) -> Pusher:
        calls = LabelStudioCalls(threads, self.ended, self.sleep, backoff=lambda: Backoff(draw=lambda: 1.0))
        server: Any = self.server
        self.pusher = Pusher(server, calls, 7, VERSION, still_right=self.right, linger=linger, clock=lambda: self.now)
        return self.pusher

    def entries(self, sizes: Sequence[int], attempts: int = 1) -> list[Finished]:
        """A prediction of about so many bytes for each of the tasks 1, 2 and so on."""
        lease = Lease("1", "1", "host:1:x", dict.fromkeys(range(1, len(sizes) + 1), attempts))
        batch: Any = HeldBatch(lease, self.acked, self.lost, self.taken)
        return [Finished(batch, TaskResult(n, TaskState.DONE, 0.5), filled(size)) for n, size in enumerate(sizes, 1)]

    def push(self, count: int, size: int = SMALL, *, attempts: int = 1, sizes: Sequence[int] = ()) -> list[bool]:
        """Push so many predictions of about that many bytes, all at once."""

        async def main() -> list[bool]:
            with ThreadPoolExecutor(1) as threads:
                pusher = self.made(threads, 0.01)
                try:
                    async with asyncio.timeout(20):
                        entries = self.entries(sizes or [size] * count, attempts)
                        return await asyncio.gather(*map(pusher.push, entries))
                finally:
                    await pusher.close()

        return asyncio.run(main())


@pytest.fixture
def server() -> LabelStudio:
    return LabelStudio()


@pytest.fixture
def bench(server: LabelStudio) -> Bench:
    return Bench(server)


def test_a_group_is_one_request_and_one_look(bench: Bench, server: LabelStudio) -> None:
    assert bench.push(10) == [True] * 10
    assert server.requests == ["push", "look"]
    assert {task: result.prediction for task, result in bench.acked.items()} == {n: 999 + n for n in range(1, 11)}


def test_large_masks_are_not_fetched_back(bench: Bench, server: LabelStudio) -> None:
    bench.push(2, ABOVE_LOOK)
    assert server.requests == ["push"]
    assert [result.prediction for result in bench.acked.values()] == [None, None]


@pytest.mark.parametrize(
    ("count", "size", "groups"),
    [(100, SMALL, [64, 36]), (5, SIX_MB, [2, 2, 1]), (2, 3 * SIX_MB, [1, 1])],
)
def test_a_group_has_at_most_64_predictions_and_16_mb(
    bench: Bench, server: LabelStudio, count: int, size: int, groups: list[int]
) -> None:
    bench.push(count, size)
    assert [len(group) for group in server.groups] == groups
    assert Counter(task for group in server.groups for task in group) == Counter(range(1, count + 1))


@pytest.mark.parametrize("size", [SMALL, ABOVE_LOOK, SIX_MB])
@pytest.mark.parametrize("error", [unsent(), LabelStudioError("slow down", 429)], ids=["unsent", "429"])
def test_what_certainly_did_not_arrive_is_sent_again_without_a_look(
    bench: Bench, server: LabelStudio, error: LabelStudioError, size: int
) -> None:
    server.faults = [(error, None), (error, None)]
    bench.push(2, size)
    assert server.requests[:3] == ["push"] * 3
    assert server.groups == [[1, 2]] * 3
    assert all(len(kept) == 1 for kept in server.kept.values())


@pytest.mark.parametrize("size", [SMALL, ABOVE_LOOK, SIX_MB])
@pytest.mark.parametrize("status", [0, 408, 500, 503])
@pytest.mark.parametrize(
    ("lost", "again"), [(None, [[1, 2]]), (frozenset({2}), [[2]]), (frozenset(), [])], ids=["none", "half", "all"]
)
def test_after_a_doubtful_push_only_what_is_missing_is_sent_again(
    bench: Bench, server: LabelStudio, size: int, status: int, lost: frozenset[int] | None, again: list[list[int]]
) -> None:
    server.faults = [(LabelStudioError("no answer", status), lost)]
    assert bench.push(2, size) == [True, True]
    assert server.requests[:2] == ["push", "look" if size == SMALL else "glance"]
    assert server.groups == [[1, 2], *again]
    assert {task: len(kept) for task, kept in server.kept.items()} == {1: 1, 2: 1}
    assert all(result.state is TaskState.DONE for result in bench.acked.values())


def test_a_task_that_another_worker_had_before_is_looked_at_before_the_first_push(
    bench: Bench, server: LabelStudio
) -> None:
    server.kept[1] = [{"id": 5, "model_version": VERSION, "result": []}]
    bench.push(2, attempts=2)
    assert server.requests[:2] == ["look", "push"]
    assert server.groups == [[2]]
    assert bench.acked[1].prediction == 5


def test_delays_grow_up_to_half_a_minute_with_a_look_before_every_push(bench: Bench, server: LabelStudio) -> None:
    server.faults = [(LabelStudioError("failed", 503), None)] * 9
    bench.push(1)
    assert bench.waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert server.requests == ["push", *["look", "push"] * 9, "look"]


def test_what_label_studio_drops_is_sent_one_by_one_and_fails_alone(bench: Bench, server: LabelStudio) -> None:
    server.faults = [(None, frozenset({2, 3})), (None, frozenset({2}))]
    assert bench.push(3) == [True] * 3
    assert server.groups == [[1, 2, 3], [2], [3]]
    assert {task: result.state for task, result in bench.acked.items()} == {
        1: TaskState.DONE,
        2: TaskState.FAILED,
        3: TaskState.DONE,
    }


def test_a_refusal_of_the_token_is_told_to_all_who_wait(bench: Bench, server: LabelStudio) -> None:
    server.faults = [(LabelStudioError("no", 401), None)]
    with pytest.raises(LabelStudioError, match="no"):
        bench.push(2)
    assert (server.requests, bench.acked) == (["push"], {})


def another_worker_pushes(server: LabelStudio, task: int) -> None:
    server.kept.setdefault(task, []).append({"id": 5, "task": task, "model_version": VERSION, "result": []})


@pytest.mark.parametrize("size", [SMALL, ABOVE_LOOK, SIX_MB])
def test_a_push_that_arrives_after_the_look_leaves_no_double(bench: Bench, server: LabelStudio, size: int) -> None:
    server.faults = [(LabelStudioError("no answer", LATE), None)]
    bench.push(2, size)
    assert server.groups == [[1, 2], [1, 2]]
    assert {task: len(kept) for task, kept in server.kept.items()} == {1: 1, 2: 1}


@pytest.mark.parametrize("size", [SMALL, ABOVE_LOOK])
def test_a_process_that_stood_still_between_lease_and_push_leaves_no_double(
    bench: Bench, server: LabelStudio, size: int
) -> None:
    def stand_still() -> None:
        bench.now += 190
        another_worker_pushes(server, 1)

    server.meanwhile = stand_still
    bench.push(2, size)
    assert {task: [one["id"] for one in kept] for task, kept in server.kept.items()} == {1: [5], 2: [1001]}


@pytest.mark.parametrize("size", [SMALL, ABOVE_LOOK])
def test_what_the_ledger_refuses_is_looked_at_and_leaves_no_double(
    bench: Bench, server: LabelStudio, size: int
) -> None:
    bench.lost = frozenset({1})
    server.meanwhile = lambda: another_worker_pushes(server, 1)
    bench.push(2, size)
    assert {task: [one["id"] for one in kept] for task, kept in server.kept.items()} == {1: [5], 2: [1001]}
    assert list(bench.acked) == [2]


def test_regions_are_fetched_only_where_there_seem_to_be_two_predictions(bench: Bench, server: LabelStudio) -> None:
    server.kept[2] = [{"id": 7, "task": 2, "model_version": "another", "result": []}]
    server.faults = [(LabelStudioError("no answer", 500), frozenset())]
    bench.push(2, ABOVE_LOOK)
    assert server.requests == ["push", "glance"]


# --- when it goes, and what goes together


def test_predictions_wait_for_company_for_a_flush_or_until_the_group_is_full(bench: Bench, server: LabelStudio) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            pusher = bench.made(threads, linger=600.0)
            entries = bench.entries([SMALL] * 67)
            pusher.flush()  # nothing waits: this says nothing about what comes later
            try:
                async with asyncio.timeout(20):
                    few = [asyncio.ensure_future(pusher.push(entry)) for entry in entries[:3]]
                    for _ in range(50):
                        await asyncio.sleep(0)
                    assert server.requests == []
                    pusher.flush()
                    await asyncio.gather(*few)
                    assert server.groups == [[1, 2, 3]]
                    await asyncio.gather(*map(pusher.push, entries[3:]))
                    assert [len(group) for group in server.groups] == [3, 64]
            finally:
                await pusher.close()

    asyncio.run(main())


def test_who_waits_when_it_is_closed_is_told(bench: Bench, server: LabelStudio) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as threads:
            pusher, answer, asked = bench.made(threads, linger=600.0), threading.Event(), threading.Event()
            server.meanwhile = lambda: (asked.set(), answer.wait(20))
            entries = bench.entries([SMALL] * 2)
            try:
                async with asyncio.timeout(20):
                    pushed = asyncio.ensure_future(pusher.push(entries[0]))
                    await asyncio.sleep(0)
                    pusher.flush()
                    await asyncio.to_thread(asked.wait, 20)
                    waiting = asyncio.ensure_future(pusher.push(entries[1]))
                    await asyncio.sleep(0)
                    await pusher.close()
                    for one in (pushed, waiting):
                        with pytest.raises(asyncio.CancelledError):
                            await one
            finally:
                answer.set()

    asyncio.run(main())
    assert bench.acked == {}


MB_8 = 8 * 1024 * 1024 - EMPTY


@pytest.mark.parametrize(("sizes", "groups"), [([MB_8, MB_8], [2]), ([MB_8, MB_8 + 1], [1, 1])])
def test_16_mb_fit_exactly(bench: Bench, server: LabelStudio, sizes: list[int], groups: list[int]) -> None:
    bench.push(2, sizes=sizes)
    assert [len(group) for group in server.groups] == groups


@pytest.mark.parametrize(("more", "looks"), [(0, ["look"]), (1, [])])
def test_up_to_512_kb_are_looked_at(bench: Bench, server: LabelStudio, more: int, looks: list[str]) -> None:
    half = 256 * 1024 - EMPTY
    bench.push(2, sizes=[half, half + more])
    assert server.requests == ["push", *looks]


# --- what is doubtful


@pytest.mark.parametrize(("seconds", "looks"), [(20.0, []), (20.5, ["glance"])])
def test_a_push_of_more_than_20_seconds_is_looked_at(
    bench: Bench, server: LabelStudio, seconds: float, looks: list[str]
) -> None:
    def take_long() -> None:
        bench.now += seconds

    server.meanwhile = take_long
    bench.push(1, ABOVE_LOOK)
    assert server.requests == ["push", *looks]


def test_a_task_that_was_taken_over_before_the_push_is_left_to_the_other_worker(
    bench: Bench, server: LabelStudio
) -> None:
    bench.taken = frozenset({1, 3})
    assert bench.push(3) == [False, True, False]
    assert server.groups == [[2]]
    assert list(bench.acked) == [2]


def test_with_every_task_taken_over_nothing_is_sent(bench: Bench, server: LabelStudio) -> None:
    bench.taken = frozenset({1, 2})
    assert bench.push(2) == [False, False]
    assert (server.requests, bench.acked) == ([], {})


def test_a_fair_sample_and_all_doubtful_ones_are_looked_at_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(below: int) -> int:
        drawn.append(below)
        return {301: 300, 302: 0, 303: 299}.get(below, below - 1)

    monkeypatch.setattr("ml_backend.runs.push.random.randrange", draw)
    bench.push(304)
    assert drawn == [301, 302, 303, 304]
    assert bench.pusher.sample == frozenset(range(1, 301)) - {1, 300} | {302, 303}


def test_doubtful_ones_are_remembered_up_to_a_limit(
    bench: Bench, server: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.runs.push._SAMPLE", 0)
    monkeypatch.setattr("ml_backend.runs.push._MOST_DOUBTED", 2)
    server.faults = [(LabelStudioError("no answer", 500), frozenset())]
    bench.push(3)
    assert bench.pusher.sample == {1, 2}


# --- what is refused


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_token_or_project_ends_it_for_all(bench: Bench, server: LabelStudio, status: int) -> None:
    server.faults = [(LabelStudioError("no", status), None)]
    with pytest.raises(LabelStudioError, match="no"):
        bench.push(2)
    assert (server.requests, bench.acked) == (["push"], {})


@pytest.mark.parametrize("status", [400, 402, 405, 413])
def test_a_group_that_is_refused_is_sent_one_by_one(bench: Bench, server: LabelStudio, status: int) -> None:
    server.faults = [(LabelStudioError("x" * 600, status), None), (LabelStudioError("x" * 600, status), None)]
    assert bench.push(3) == [True] * 3
    assert server.groups == [[1, 2, 3], [1], [2], [3]]
    states = {task: result.state for task, result in bench.acked.items()}
    assert states == {1: TaskState.FAILED, 2: TaskState.DONE, 3: TaskState.DONE}
    failed = bench.acked[1]
    assert (failed.score, len(failed.reason)) == (None, 500)
    assert failed.reason.startswith("Label Studio did not take the prediction: xxx")


def test_a_refused_prediction_of_a_deleted_task_is_skipped(bench: Bench, server: LabelStudio) -> None:
    server.deleted = {1}
    server.faults = [(LabelStudioError("no such task", 400), None)]
    bench.push(1)
    assert (bench.acked[1].state, bench.acked[1].reason) == (TaskState.SKIPPED, "the task was deleted")
    assert bench.acked[1].score is None


def test_nobody_is_called_refused_when_the_run_itself_is_wrong(bench: Bench, server: LabelStudio) -> None:
    bench.wrong = ValueError("the labeling config was changed")
    server.faults = [(LabelStudioError("no", 400), None)]
    with pytest.raises(ValueError, match="was changed"):
        bench.push(2)
    assert (server.groups, bench.acked) == ([[1, 2]], {})


# --- looks that remove doubles


@pytest.mark.parametrize(("status", "said"), [(404, []), (403, ["no"])])
def test_a_double_that_is_gone_already_is_fine(
    bench: Bench, server: LabelStudio, caplog: pytest.LogCaptureFixture, status: int, said: list[str]
) -> None:
    server.kept[1] = [{"id": number, "model_version": VERSION, "result": []} for number in (5, 6, 7)]

    def refuse(number: int) -> None:
        server.requests.append(f"delete {number}")
        raise LabelStudioError("no", status)

    server.delete_prediction = refuse  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "ml_backend.runs.looks"):
        assert bench.push(1, attempts=2) == [True]
    assert server.requests == ["look", "delete 6", "delete 7"]
    assert [text for text in caplog.messages if "second prediction" not in text] == said * 2
    assert bench.acked[1].prediction == 5
