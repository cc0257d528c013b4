"""Clicks without a server: what is counted and reported, what waits, what is warmed and forgotten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from int_model.core.types import Instance
from ml_backend.errors import EngineError
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.output_options import OutputOptions
from ml_backend.labelstudio.task_prompt import ConnectionParams
from ml_backend.labelstudio.wire import PredictIn
from ml_backend.serving.interactive import Interactive, valid_or_empty
from ml_backend.serving.plan import Plan
from ml_backend.serving.tasks import Threads
from ml_backend.storage.clicks import ClickLog
from ml_backend.storage.database import Database
from tests.support.clickable import Clickable
from tests.support.harness import picture, red

CONFIG = parse_label_config(
    '<View><Image name="image" value="$image"/><KeyPointLabels name="kp" toName="image" smart="true">'
    '<Label value="Animal"/></KeyPointLabels><PolygonLabels name="p" toName="image"><Label value="Animal"/>'
    "</PolygonLabels></View>"
)
PLAN = Plan(CONFIG, ConnectionParams(), dict.fromkeys(("kp", "p"), OutputOptions()), "v-1", "")
EMPTY = {"result": [], "score": 0, "model_version": "v-1"}
POINT = {"type": "keypointlabels", "value": {"x": 40, "y": 40}}


class World:
    """What clicks are answered with. While ``held``, the segmenter takes no work; images wait for ``gate``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.models = Clickable()
        self.fetched: list[str] = []
        self.decoded: list[bool] = []
        self.reports: list[tuple[str, str]] = []
        self.urgent: list[bool] = []
        self.held = False
        self.refused: Exception | None = None
        self.waiting: list[tuple[Callable[[Any], Any], Future[Any]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.registry = CollectorRegistry()
        metrics = SimpleNamespace(
            clicks=Counter("clicks", "x", ["outcome"], registry=self.registry),
            stage=Histogram("stage", "x", ["stage"], registry=self.registry),
        )
        self.threads = Threads(2, "test")
        facilities: Any = SimpleNamespace(
            engine=SimpleNamespace(click=self.click, status=SimpleNamespace(state="ready")),
            threads=self.threads,
            parsing=self.threads,
            status=SimpleNamespace(report=lambda what, problem: self.reports.append((what, str(problem)))),
            metrics=metrics,
            settings=SimpleNamespace(downloads=2, prompt="a frog"),
            store=SimpleNamespace(database=database),
            fetch=self.fetch,
            decode=self.decode,
        )
        self.interactive = Interactive(facilities)

    def click(self, work: Callable[[Any], Any], *, urgent: bool = True) -> Future[Any]:
        if self.refused is not None:
            raise self.refused
        self.urgent.append(urgent)
        future: Future[Any] = Future()
        self.waiting.append((work, future))
        if not self.held:
            self.work_off()
        return future

    def work_off(self) -> None:
        while self.waiting:
            work, future = self.waiting.pop(0)
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(self.models.clicks))
                except Exception as error:  # noqa: BLE001 - as the engine does
                    future.set_exception(error)

    async def fetch(self, address: str, task: int | None) -> tuple[bytes, str]:
        self.fetched.append(address)
        await self.gate.wait()
        if address == "gone":
            raise EngineError("it is gone")
        return address.encode(), hashlib.sha256(address.encode()).hexdigest()

    async def decode(self, data: bytes, *, urgent: bool = False) -> Any:
        self.decoded.append(urgent)
        return np.full((60, 80, 3), 128, np.uint8) if data == b"blank" else picture()

    async def ask(
        self, *addresses: str, context: Any = None, seconds: float = 20.0, project: str = "7", task: int | None = 5
    ) -> list[Any]:
        tasks = [{"id": task and task + place, "data": {"image": one}} for place, one in enumerate(addresses)]
        given = {"result": [POINT]} if context is None else context
        request = PredictIn.model_validate({"tasks": tasks, "project": project, "context": given})
        return await self.interactive.answer(request, PLAN, asyncio.get_running_loop().time() + seconds)

    def counted(self) -> dict[str, float]:
        (family,) = (one for one in self.registry.collect() if one.name == "clicks")
        return {one.labels["outcome"]: one.value for one in family.samples if one.name == "clicks_total"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.close()


Play = Callable[[World], Awaitable[None]]


@pytest.fixture
def played(database: Database) -> Callable[[Play], World]:
    def run(play: Play) -> World:
        made: list[World] = []

        async def main() -> None:
            made.append(World(database))
            try:
                async with asyncio.timeout(25):
                    await play(made[0])
            finally:
                await made[0].interactive.close()
                await made[0].threads.close()

        asyncio.run(main())
        return made[0]

    return run


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_an_answer_is_counted_timed_and_written_down(played: Callable[[Play], World], database: Database) -> None:
    async def play(world: World) -> None:
        first, second = await world.ask("a", "b")
        for answer in (first, second):
            (region,) = answer["result"]
            assert (answer["score"], answer["model_version"]) == (0.83, "v-1")
            assert (region["type"], region["original_width"], region["original_height"]) == ("bitmask", 80, 60)

    world = played(play)
    assert world.counted() == {"answered": 2.0}
    assert world.registry.get_sample_value("stage_count", {"stage": "click"}) == 2
    assert 0 <= (world.registry.get_sample_value("stage_sum", {"stage": "click"}) or 0.0) < 25
    assert world.decoded == [True, True]  # a click waits for no other image
    kept = ClickLog(database).of_tasks(7, range(99))
    assert {task: [(one.size, one.model_version) for one in log] for task, log in kept.items()} == {
        5: [((60, 80), "v-1")],
        6: [((60, 80), "v-1")],
    }
    assert world.reports == []


def test_the_second_click_needs_no_image(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        for _ in range(3):
            assert (await world.ask("a"))[0]["result"]
        world.models.clicks.release_all()
        assert (await world.ask("a"))[0]["result"]

    world = played(play)
    assert world.fetched == ["a", "a"]
    assert world.counted() == {"answered": 4.0}


def test_a_failure_is_counted_reported_and_empty(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        gone, found, nowhere = await world.ask("gone", "a", "")
        assert gone == nowhere == EMPTY
        assert found["result"]

    world = played(play)
    assert world.counted() == {"failed": 2.0, "answered": 1.0}
    assert {what for what, _ in world.reports} == {"a click"}
    first, second = sorted(why for _, why in world.reports)
    assert first == "it is gone"
    assert second.startswith("the task's data has no image for")


def test_a_click_on_an_image_that_the_task_lacks(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        assert await world.ask("a", context={"result": [POINT | {"item_index": 1}]}) == [EMPTY]
        assert (await world.ask("a", context={"result": [POINT | {"item_index": 0}]}))[0]["result"]

    assert played(play).reports == [("a click", "the task has 1 images; the click is on number 2")]


def test_a_click_that_finds_nothing_is_no_failure(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        world.models.clicks.answer = lambda *_, **__: ()  # type: ignore[method-assign]
        assert await world.ask("a") == [EMPTY]

    world = played(play)
    assert (world.counted(), world.reports) == ({"nothing_found": 1.0}, [])


def test_a_late_answer_is_counted_and_names_the_state(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        world.held = True
        assert await world.ask("a", seconds=0.05) == [EMPTY]
        assert world.counted() == {"late": 1.0}
        assert world.reports == [("a click", "the segmenter did not answer in time (models: ready)")]
        assert await world.ask("a", seconds=-5.0) == [EMPTY]
        await until(lambda: not world.interactive._under_way)

    assert played(play).counted() == {"late": 2.0}


def test_an_older_click_of_the_same_person_is_stale(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        world.held = True
        older = {"result": [POINT | {"id": "one"}]}
        newer = {"result": [POINT | {"id": "one"}, POINT | {"id": "two", "value": {"x": 45, "y": 45}}]}
        first = asyncio.ensure_future(world.ask("a", context=older))
        await until(lambda: world.waiting)
        elsewhere = asyncio.ensure_future(world.ask("a", context=older, task=6))
        another = asyncio.ensure_future(world.ask("a", context=older, project="8"))
        await until(lambda: len(world.waiting) == 3)
        second = asyncio.ensure_future(world.ask("a", context=newer))
        assert await first == [EMPTY]
        assert world.counted() == {"stale": 1.0}
        assert len(world.interactive._under_way) == 3
        await until(lambda: len(world.waiting) == 4)
        world.held = False
        world.work_off()
        for one in (second, elsewhere, another):
            assert (await one)[0]["result"]
        assert world.interactive._under_way == {}  # nothing is kept of what is over

    assert played(play).counted() == {"stale": 1.0, "answered": 3.0}


def test_prewarm_encodes_once_and_release_forgets(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        world.gate.clear()  # the second comes while the first is under way
        for _ in range(2):
            assert await world.ask("a", context={"event": "prewarm"}) == [EMPTY]
        world.gate.set()
        await until(lambda: world.models.segmenter.encoded == 1 and not world.interactive._warming)
        assert world.fetched == ["a"]
        assert (await world.ask("a"))[0]["result"]
        assert world.models.segmenter.encoded == 1
        assert await world.ask("a", context={"event": "release"}) == [EMPTY]
        assert not world.models.clicks.cache
        assert await world.ask("a", context={"event": "release"}) == [EMPTY]  # nothing left: nobody is asked
        assert world.urgent == [False, True, False]
        assert (await world.ask("a"))[0]["result"]
        assert world.fetched == ["a", "a"]

    assert played(play).counted() == {"answered": 2.0}


def test_only_so_many_images_are_warmed_at_a_time(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        world.gate.clear()
        for number in range(70):
            await world.ask(f"image {number}", context={"event": "prewarm"})
        assert len(world.interactive._warming) == 64
        await until(lambda: len(world.fetched) == 2)  # no more than the downloads at a time
        await asyncio.sleep(0)
        assert len(world.fetched) == 2
        world.gate.set()
        await until(lambda: not world.interactive._warming)
        assert len(world.fetched) == 64
        await world.ask("image 69", context={"event": "prewarm"})
        await until(lambda: len(world.fetched) == 65 and not world.interactive._warming)

    assert played(play).reports == []


def test_what_cannot_be_warmed_is_reported_and_released_work_is_dropped(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        await world.ask("gone", context={"event": "prewarm"})
        await until(lambda: world.reports)
        await until(lambda: not world.interactive._warming)
        await world.ask("", context={"event": "release"})
        world.gate.clear()
        await world.ask("a", context={"event": "prewarm"})
        await until(lambda: len(world.fetched) == 2)
        await world.ask("a", context={"event": "release"})
        await until(lambda: not world.interactive._warming)
        world.gate.set()
        assert (await world.ask("a"))[0]["result"]
        world.refused = EngineError("closed")
        assert await world.ask("a", context={"event": "release"}) == [EMPTY]

    first, second = played(play).reports
    assert first == ("prewarm of task 5", "it is gone")
    assert second[0] == "release of task 5"
    assert second[1].startswith("the task's data has no image for")


@pytest.mark.parametrize("event", [None, "track", [1]])
def test_other_events_are_answered_with_nothing(played: Callable[[Play], World], event: Any) -> None:
    async def play(world: World) -> None:
        assert await world.ask("a", context={"event": event, "result": []}) == [EMPTY]

    world = played(play)
    assert (world.fetched, world.counted()) == ([], {})


def test_capabilities_are_told_without_a_task(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        (answer,) = await world.ask("", context={"event": "capabilities"})
        (entry,) = answer["result"]
        assert entry["value"]["model_info"] == {"name": "INT", "version": "v-1"}
        assert (answer["score"], answer["model_version"]) == (0, "v-1")

    assert played(play).fetched == []


def test_a_picture_holds_all_objects_and_their_mean_score(played: Callable[[Play], World]) -> None:
    async def play(world: World) -> None:
        mask = red(picture())
        scores = (0.91, 0.8, 0.70005)
        found = tuple(Instance.of_mask(mask, "Animal", score) for score in scores)
        world.models.clicks.answer = lambda *_, **__: found  # type: ignore[method-assign]
        (answer,) = await world.ask("a")
        (region,) = answer["result"]
        assert answer["score"] == region["score"] == 0.8034  # rounded to four places
        control = {"result": [POINT | {"from_name": "kp", "to_name": "image"}]}
        (answer,) = await world.ask("a", context=control)
        assert {region["from_name"] for region in answer["result"]} == {"p"}
        assert round(answer["score"], 4) == answer["score"] > 0

    played(play)


def test_what_a_browser_cannot_read_is_replaced() -> None:
    answer = {"result": [1], "score": 0.5, "model_version": "v-1"}
    assert valid_or_empty([answer, [], None], "v-1") == [answer, EMPTY, EMPTY]
