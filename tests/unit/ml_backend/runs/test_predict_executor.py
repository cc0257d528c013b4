"""One task of a run whose models or file are not there yet: what is tried again, how often, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.backoff import Backoff
from ml_backend.errors import BusyError, EngineError
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.wire import TaskIn
from ml_backend.runs import predict_executor
from ml_backend.runs.errors import RunStopError, WorkEndedError
from ml_backend.runs.listing import TaskView
from ml_backend.runs.predict_executor import PredictWork

VIEW = TaskView(TaskIn(id=5, data={}), annotated=False, drafted=False, predicted=False)


class World:
    """Models that raise ``faults`` one after the other, and then answer; waiting takes no time."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.waits: list[float] = []
        self.tries = 0
        self.versions_asked = 0
        self.away: Callable[[], float] = lambda: 0.0  # seconds that Label Studio takes to say its version
        self.now = 1000.0
        self.stopping = asyncio.Event()
        self.engine = SimpleNamespace(state="ready", why="")
        self.alone = False

    async def annotate(self, task: Any, plan: Any, waiter: Any) -> str:
        assert (task.id, plan, waiter.project) == (5, "plan", "7")
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def ended(self) -> bool:
        return False

    def request(self, method: str, path: str) -> None:
        assert (method, path) == ("GET", "/api/version")
        self.versions_asked += 1
        self.now += self.away()

    def work(self) -> PredictWork:
        spec = SimpleNamespace(project=7, model_version="v-1", request=SimpleNamespace(set_model_version=False))
        session: Any = SimpleNamespace(
            run=SimpleNamespace(id="4", spec=spec), stopping=self.stopping, sleep=self.sleep, over=self.ended,
            alone=self.alone,
        )  # fmt: skip
        executor: Any = SimpleNamespace(
            annotator=SimpleNamespace(annotate=self.annotate, engine=SimpleNamespace(status=self.engine)),
            client=SimpleNamespace(request=self.request),
            threads=None,  # the loop's own
        )
        plan: Any = "plan"
        return PredictWork(executor, session, plan)


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delay is the longest that it may be."""
    monkeypatch.setattr(predict_executor, "Backoff", lambda *given: Backoff(*given, draw=lambda: 1.0))


def play(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(predict_executor, "time", SimpleNamespace(monotonic=lambda: world.now))

    async def main() -> Any:
        async with asyncio.timeout(20):
            return await world.work().annotate(VIEW)

    return asyncio.run(main())


def busy(retry_after: float | None = None) -> EngineError:
    return BusyError("the models are being loaded", retry_after=retry_after)


def away() -> FetchError:
    return FetchError("the host does not answer", transient=True)


def test_models_that_cannot_answer_now_are_asked_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(*[busy()] * 7, busy(3.5))
    assert play(world, monkeypatch) == "answer"
    assert world.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 3.5]
    assert world.versions_asked == 0


def test_a_file_is_tried_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(*[away()] * 3)
    assert play(world, monkeypatch) == "answer"
    assert (world.waits, world.versions_asked) == ([1.0, 2.0, 4.0], 3)
    world = World(*[away()] * 9)
    with pytest.raises(FetchError, match="does not answer"):
        play(world, monkeypatch)
    assert world.tries == 4


def test_a_file_that_is_refused_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(FetchError("not allowed"))
    with pytest.raises(FetchError, match="not allowed"):
        play(world, monkeypatch)
    assert (world.tries, world.waits) == (1, [])


@pytest.mark.parametrize(("seconds", "tries"), [(1.0, 4), (1.1, 10)])
def test_while_label_studio_was_away_nothing_counts_as_a_try(
    monkeypatch: pytest.MonkeyPatch, seconds: float, tries: int
) -> None:
    world = World(*[away()] * 9)
    world.away = lambda: seconds
    if tries == 4:
        with pytest.raises(FetchError):
            play(world, monkeypatch)
    else:
        assert play(world, monkeypatch) == "answer"
        assert world.waits == [1.0] * 9
    assert world.tries == tries


@pytest.mark.parametrize(
    ("state", "alone", "raised", "waits"),
    [
        ("ready", False, EngineError, []),
        ("failed", True, RunStopError, []),
        ("failed", False, WorkEndedError, [30.0]),
        ("closed", False, WorkEndedError, []),
        ("closed", True, WorkEndedError, []),
    ],
)
def test_what_ends_when_the_models_fail_for_good(
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    alone: bool,
    raised: type[Exception],
    waits: list[float],
) -> None:
    world = World(EngineError("no such kernel"))
    world.engine.state, world.engine.why, world.alone = state, "no weights here", alone
    with pytest.raises(raised) as error:
        play(world, monkeypatch)
    assert (world.tries, world.waits) == (1, waits)
    if raised is RunStopError:
        assert str(error.value) == "the models could not be loaded: no weights here"


def test_a_process_that_is_told_to_stop_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.stopping.set()
    with pytest.raises(WorkEndedError):
        play(world, monkeypatch)
    assert world.tries == 0
