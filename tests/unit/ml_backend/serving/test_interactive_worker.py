"""The thread for clicks: order, memory that runs out, failures, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from int_model.interactive.clicks import NotEncodedError
from ml_backend.errors import EngineError
from ml_backend.serving.interactive_worker import InteractiveWorker
from tests.support.waiting import until

WAIT = 20.0


class Bench:
    """A worker whose segmenter is the text "segmenter"."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.freed = 0
        self.worker = InteractiveWorker(self.events.append)

    def open(self) -> None:
        def free() -> None:
            self.freed += 1

        segmenter: Any = "segmenter"
        self.worker.open(segmenter, free)

    def fails(self, *errors: Exception) -> Callable[[Any], str]:
        """Work that raises these, one by one, and then answers."""
        left = list(errors)

        def work(segmenter: Any) -> str:
            if left:
                raise left.pop(0)
            return f"answered by {segmenter}"

        return work


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.worker.close(EngineError("closed"), WAIT)


def test_urgent_work_goes_first_and_each_kind_in_its_order(bench: Bench) -> None:
    done: list[str] = []
    work = [
        bench.worker.submit(lambda _, name=name: done.append(name), urgent=name.startswith("click"))
        for name in ("warm 1", "click 1", "warm 2", "click 2")
    ]
    work.append(bench.worker.submit(lambda _: done.append("click 3")))  # urgent unless it is said
    assert (bench.worker.waiting, bench.worker.busy) == (5, True)
    bench.open()
    for one in work:
        one.result(WAIT)
    assert done == ["click 1", "click 2", "click 3", "warm 1", "warm 2"]
    until(lambda: not bench.worker.busy)
    assert bench.worker.waiting == 0


def test_it_is_busy_while_it_works_even_with_nothing_waiting(bench: Bench) -> None:
    assert not bench.worker.busy
    begun, go_on = threading.Event(), threading.Event()
    work = bench.worker.submit(lambda _: (begun.set(), go_on.wait(WAIT)))
    bench.open()
    assert begun.wait(WAIT)
    assert (bench.worker.waiting, bench.worker.busy) == (0, True)
    go_on.set()
    work.result(WAIT)
    until(lambda: not bench.worker.busy)


def test_a_cancelled_click_is_not_worked_on(bench: Bench) -> None:
    done: list[str] = []
    dropped = bench.worker.submit(lambda _: done.append("dropped"))
    kept = bench.worker.submit(lambda _: done.append("kept"))
    assert dropped.cancel()
    bench.open()
    kept.result(WAIT)
    assert (done, bench.freed, bench.events) == (["kept"], 0, [])


@pytest.mark.parametrize(
    ("failures", "answered", "events"), [(1, True, ["retried"]), (2, False, ["retried", "failed"])]
)
def test_memory_that_runs_out_is_freed_and_the_click_tried_once_more(
    bench: Bench, failures: int, answered: bool, events: list[str]
) -> None:
    full = MemoryError("CUDA out of memory")
    work = bench.worker.submit(bench.fails(*[full] * failures))
    bench.open()
    if answered:
        assert work.result(WAIT) == "answered by segmenter"
    else:
        with pytest.raises(EngineError, match="has not enough memory for it"):
            work.result(WAIT)
    assert (bench.events, bench.freed) == (events, 1)
    assert bench.worker.submit(bench.fails()).result(WAIT) == "answered by segmenter"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("the  mask\nis odd"), "the segmenter failed on this click: the mask is odd"),
        (RuntimeError("x" * 400), "the segmenter failed on this click: " + "x" * 300),
        (KeyError(), "the segmenter failed on this click: KeyError"),
    ],
)
def test_a_failure_is_that_clicks_alone(bench: Bench, error: Exception, said: str) -> None:
    first, second = bench.worker.submit(bench.fails(error)), bench.worker.submit(bench.fails())
    bench.open()
    with pytest.raises(EngineError) as raised:
        first.result(WAIT)
    assert str(raised.value) == said
    assert second.result(WAIT) == "answered by segmenter"
    assert (bench.events, bench.freed) == ([], 0)


def test_an_image_that_is_not_encoded_is_told_as_it_is(bench: Bench) -> None:
    work = bench.worker.submit(bench.fails(NotEncodedError()))
    bench.open()
    with pytest.raises(NotEncodedError):
        work.result(WAIT)


def test_what_waits_fails_and_what_is_at_work_is_finished_at_the_end(bench: Bench) -> None:
    begun, go_on = threading.Event(), threading.Event()
    at_work = bench.worker.submit(lambda _: (begun.set(), go_on.wait(WAIT)))
    waiting, dropped = (bench.worker.submit(bench.fails()) for _ in range(2))
    bench.open()
    assert begun.wait(WAIT)
    dropped.cancel()
    bench.worker.fail(EngineError("the models are being loaded again"))
    with pytest.raises(EngineError, match="loaded again"):
        waiting.result(WAIT)
    later = bench.worker.submit(bench.fails())
    closing = threading.Thread(target=bench.worker.close, args=(EngineError("closed"), WAIT))
    closing.start()
    with pytest.raises(EngineError, match="closed"):
        later.result(WAIT)
    go_on.set()
    assert at_work.result(WAIT) == (None, True)
    closing.join(WAIT)
    assert not closing.is_alive()
    assert bench.worker._thread is not None
    assert not bench.worker._thread.is_alive()
    assert bench.worker._thread.daemon  # a click that hangs does not hold up the end of the process
