"""From a file to a result: the store first, the models once for all who ask, and what becomes of failures."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Instance, Segmentation, Trace
from int_model.runner.results import StoredResult
from ml_backend.errors import EngineError
from ml_backend.serving.queue import ImageQueue, Priority, Request, Waiter
from ml_backend.serving.results import Results, image_key
from ml_backend.storage.database import StoreError

SIZE = (8, 10)


def segmentation(*, empty: bool = False) -> Segmentation:
    mask = np.zeros(SIZE, np.bool_)
    mask[2:5, 3:7] = True
    found = () if empty else (Instance.of_mask(mask, "frog", 0.75),)
    trace = Trace(task="frog", strategy="int")
    return Segmentation(SIZE, "frog", found, 0.75, trace, reason="nothing of that kind" if empty else "")


class World:
    """What results are made with; every step is noted in ``steps``."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.stored: dict[Any, bytes] = {}
        self.reports: list[tuple[str, str]] = []
        self.fails: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        registry = CollectorRegistry()
        self.cache = Counter("cache", "x", ["outcome"], registry=registry)
        self.images = Counter("images", "x", registry=registry)
        self.stage = Histogram("stage", "x", ["stage"], registry=registry)
        self.registry = registry
        self.queue = ImageQueue(places=4, downloads=2, reserve=1)
        facilities: Any = SimpleNamespace(
            engine=SimpleNamespace(check=lambda: self.step("check")),
            store=SimpleNamespace(get_result=self.get, put_result=self.put),
            threads=self.at_once,
            status=SimpleNamespace(report=lambda what, problem: self.reports.append((what, str(problem)))),
            metrics=self,
            identity=SimpleNamespace(
                adapted=lambda adapter: SimpleNamespace(cache_version_of=lambda strategy: f"v-{strategy}-{adapter}")
            ),
            fetch=self.fetch,
            decode=self.decode,
        )
        self.results = Results(facilities, self.queue)

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.fails:
            raise self.fails[name]

    async def at_once(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def fetch(self, address: str, task: int | None) -> tuple[bytes, str]:
        await self.gate.wait()
        self.step("fetch")
        return address.encode(), hashlib.sha256(address.encode()).hexdigest()

    async def decode(self, data: bytes) -> Any:
        self.step("decode")
        return np.zeros((*SIZE, 3), np.uint8)

    def get(self, key: Any) -> bytes | None:
        self.step("get")
        return self.stored.get(key)

    def put(self, key: Any, payload: bytes) -> None:
        self.step("put")
        self.stored[key] = payload

    async def models(self, outcome: Segmentation | Exception) -> None:
        """The models take what is ready, and say so."""
        while not (jobs := self.queue.take_all()):
            await asyncio.sleep(0)
        for job in jobs:
            self.steps.append("models")
            if isinstance(outcome, Exception):
                job.segmentation.set_exception(outcome)
            else:
                job.segmentation.set_result(outcome)

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def request(address: str = "a", task: int | None = 7) -> Request:
    return Request(image_key(task, address), address, task, TaskPrompt("frog"), "int", "learned")


def played(play: Callable[[World], Awaitable[None]]) -> World:
    made: list[World] = []

    async def main() -> None:
        made.append(World())
        async with asyncio.timeout(20):
            await play(made[0])
        await made[0].results.close()

    asyncio.run(main())
    return made[0]


def test_what_the_store_lacks_goes_through_the_models_and_is_kept() -> None:
    async def play(world: World) -> None:
        for _ in range(2):
            waiter = Waiter(Priority.PREDICT)
            asked = asyncio.ensure_future(world.results.of_image(waiter, [request()]))
            if not world.stored:
                await world.models(segmentation())
            (found,) = await asked
            world.results.leave(waiter)
            assert (found.size, len(found.objects), found.objects[0].score) == (SIZE, 1, 0.75)

    world = played(play)
    assert world.steps == ["fetch", "get", "check", "decode", "models", "put", "fetch", "get"]
    (key,) = world.stored
    assert (key.image, key.prompt, key.identity) == (
        hashlib.sha256(b"a").hexdigest(),
        "frog",
        "v-int-learned",
    )
    assert (world.counted("cache_total", outcome="miss"), world.counted("cache_total", outcome="hit")) == (1, 1)
    assert world.counted("images_total") == 1
    assert world.counted("stage_count", stage="models") == 1
    assert 0 <= world.counted("stage_sum", stage="models") < 20
    assert world.reports == []


@pytest.mark.parametrize("kept", [b"damaged", StoreError("the disk is gone")])
def test_a_store_that_cannot_answer_is_named_and_the_models_are_asked(kept: bytes | Exception) -> None:
    async def play(world: World) -> None:
        if isinstance(kept, Exception):
            world.fails |= {"get": kept, "put": kept}
        else:
            world.get = lambda _: kept  # type: ignore[method-assign]
            world.results._store.get_result = world.get  # type: ignore[method-assign]
        asked = asyncio.ensure_future(world.results.of_image(Waiter(Priority.PREDICT), [request()]))
        await world.models(segmentation())
        (found,) = await asked
        assert len(found.objects) == 1

    world = played(play)
    assert {what for what, _ in world.reports} == {"the store of results"}
    assert len(world.reports) == (2 if isinstance(kept, Exception) else 1)
    assert world.counted("cache_total", outcome="miss") == 1


@pytest.mark.parametrize("where", ["fetch", "check", "decode", "models"])
def test_a_failure_is_told_to_all_who_wait_and_nobody_else(where: str) -> None:
    async def play(world: World) -> None:
        error = EngineError("it cannot be")
        world.fails[where] = error
        waiters = [Waiter(Priority.PREDICT), Waiter(Priority.BATCH)]
        asked = [asyncio.ensure_future(world.results.of_image(waiter, [request()])) for waiter in waiters]
        if where == "models":
            await asyncio.gather(*([asyncio.sleep(0)] * 3))
            await world.models(error)
        for one in asked:
            with pytest.raises(EngineError, match="it cannot be"):
                await one
        assert world.queue.find(request()) is None

    world = played(play)
    assert world.steps.count(where) == 1
    assert (world.reports, world.stored) == ([], {})


def test_what_nobody_waits_for_any_more_is_reported_to_operators() -> None:
    async def play(world: World) -> None:
        waiter = Waiter(Priority.PREDICT)
        asked = asyncio.ensure_future(world.results.of_image(waiter, [request()]))
        while not world.queue.ready:
            await asyncio.sleep(0)
        asked.cancel()
        world.results.leave(waiter, keep=True)
        assert world.results.in_background == 1
        await world.models(EngineError("too late"))
        while world.results.in_background:
            await asyncio.sleep(0)

    assert played(play).reports == [("task 7", "too late")]


@pytest.mark.parametrize("keep", [True, False])
def test_late_work_is_kept_or_dropped(keep: bool) -> None:
    async def play(world: World) -> None:
        waiter = Waiter(Priority.PREDICT)
        asked = asyncio.ensure_future(world.results.of_image(waiter, [request()]))
        while not world.queue.ready:
            await asyncio.sleep(0)
        asked.cancel()
        world.results.leave(waiter, keep=keep)
        assert world.results.in_background == keep
        assert (world.queue.find(request()) is not None) is keep
        if keep:
            await world.models(segmentation())
            while not world.stored:
                await asyncio.sleep(0)

    assert bool(played(play).stored) is keep


def test_several_who_ask_share_one_fetch_and_one_answer() -> None:
    async def play(world: World) -> None:
        waiters = [Waiter(Priority.PREDICT) for _ in range(3)]
        asked = [asyncio.ensure_future(world.results.of_image(waiter, [request()])) for waiter in waiters]
        asked[0].cancel()
        await world.models(segmentation(empty=True))
        found: list[list[StoredResult]] = list(await asyncio.gather(*asked[1:]))
        assert [one.reason for (one,) in found] == ["nothing of that kind"] * 2

    assert played(play).steps.count("fetch") == 1


def test_what_people_look_at_goes_before_a_batch() -> None:
    async def play(world: World) -> None:
        world.gate.clear()
        waiter = Waiter(Priority.BATCH)
        wishes = [request(name) for name in "abcdef"]
        asked = [asyncio.ensure_future(world.results.of_image(waiter, [wish])) for wish in wishes]
        await asyncio.sleep(0)
        world.results.hurry([request("f"), request("never asked for")])
        hurried, waiting = world.queue.find(request("f")), world.queue.find(request("e"))
        assert hurried is not None
        assert waiting is not None
        assert (hurried.priority, waiting.priority) == (Priority.PREDICT, Priority.BATCH)
        assert world.queue.find(request("never asked for")) is None
        assert (hurried.stage.value, waiting.stage.value) == ("loading", "queued")  # it may exceed the downloads
        world.results.set_priority(waiter, Priority.INTERACTIVE)
        assert waiting.priority is Priority.INTERACTIVE
        third = world.queue.find(request("c"))
        assert third is not None
        assert third.stage.value == "loading"  # the next one by now
        for one in asked:
            one.cancel()

    played(play)


def test_the_next_file_is_fetched_when_somebody_leaves() -> None:
    async def play(world: World) -> None:
        world.gate.clear()
        waiters = [Waiter(Priority.BATCH) for _ in range(3)]
        asked = [
            asyncio.ensure_future(world.results.of_image(waiter, [request(name)]))
            for waiter, name in zip(waiters, "abc", strict=True)
        ]
        await asyncio.sleep(0)
        world.gate.set()
        await world.models(segmentation())
        await world.models(segmentation())
        while len(world.stored) < 3:
            await asyncio.sleep(0)
            for job in world.queue.take_all():
                job.segmentation.set_result(segmentation())
        await asyncio.gather(*asked)

    assert played(play).steps.count("fetch") == 3


def test_who_leaves_makes_room_for_the_next_and_keeps_nothing() -> None:
    async def play(world: World) -> None:
        first, second = Waiter(Priority.BATCH, "same"), Waiter(Priority.BATCH, "same")
        asked = [asyncio.ensure_future(world.results.of_image(first, [request(name)])) for name in "abcd"]
        while world.queue.ready < 4:  # all places are taken
            await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(world.results.of_image(second, [request("e")])))
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.steps.count("fetch") == 4
        for one in asked[:4]:
            one.cancel()
        world.results.leave(first)
        assert world.results.in_background == 0
        assert world.queue.find(request("a")) is None
        await world.models(segmentation())
        (found,) = await asked[4]
        assert len(found.objects) == 1

    assert played(play).steps.count("fetch") == 5


def test_closing_cancels_who_waits_and_fetches_nothing_more() -> None:
    async def play(world: World) -> None:
        world.gate.clear()
        asked = asyncio.ensure_future(world.results.of_image(Waiter(Priority.PREDICT), [request()]))
        await asyncio.sleep(0)
        await world.results.close()
        world.gate.set()
        late = asyncio.ensure_future(world.results.of_image(Waiter(Priority.PREDICT), [request("b")]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert "fetch" not in world.steps
        for one in (asked, late):
            one.cancel()

    played(play)


def test_an_address_of_a_task_is_no_digest() -> None:
    assert image_key(7, "a") != image_key(8, "a") != image_key(8, "b")
    assert image_key(7, "a").startswith("@")
    assert len(image_key(None, "\ud800")) == 65
