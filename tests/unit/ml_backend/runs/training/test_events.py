"""Events of Label Studio: which of them make a project learn, and who is told where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ml_backend.runs.manager import RunsError
from ml_backend.runs.training.events import LearningEvents
from ml_backend.storage.database import StoreError


@dataclass
class Noted:
    """Stands in for what begins trainings and for the status page."""

    error: Exception | None = None
    considered: list[int] = field(default_factory=list)
    started: list[tuple[int, str]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    def consider(self, project: int) -> None:
        self.considered.append(project)
        if self.error:
            raise self.error

    def start(self, project: int, why: str) -> None:
        self.started.append((project, why))
        if self.error:
            raise self.error

    def report(self, what: str, problem: str) -> None:
        self.told.append((what, problem))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.runs.training.events._SETTLE", 0.02)


def play(noted: Noted, use: Callable[[LearningEvents], Awaitable[None]], *, connected: bool = True) -> None:
    async def main() -> None:
        trainings: Any = noted if connected else None
        status: Any = noted
        events = LearningEvents(trainings, status)
        async with asyncio.timeout(20):
            await use(events)
            await events.close()

    asyncio.run(main())


async def when(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_of_many_annotations_at_once_a_project_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()

    async def use(events: LearningEvents) -> None:
        for _ in range(5):
            events.take("ANNOTATION_CREATED", "7")
            events.take("ANNOTATION_UPDATED", "8")
        await when(lambda: len(noted.considered) == 2)
        assert sorted(noted.considered) == [7, 8]
        await asyncio.sleep(0.05)
        events.take("ANNOTATION_CREATED", "7")
        await when(lambda: len(noted.considered) == 3)

    play(noted, use)
    assert noted.considered[2:] == [7]
    assert noted.started == []


def test_a_press_of_the_button_begins_a_training() -> None:
    noted = Noted()

    async def use(events: LearningEvents) -> None:
        events.take("START_TRAINING", "7")
        await when(lambda: noted.started)

    play(noted, use)
    assert noted.started == [(7, "Start training")]
    assert (noted.considered, noted.told) == ([], [])


def test_why_a_training_that_was_asked_for_cannot_begin_is_told() -> None:
    noted = Noted(RunsError("project 7 is not known here"))

    async def use(events: LearningEvents) -> None:
        events.take("START_TRAINING", "7")
        await when(lambda: noted.told)

    play(noted, use)
    ((what, why),) = noted.told
    assert "project 7" in what
    assert why == "project 7 is not known here"


def test_a_project_goes_on_after_a_failure_that_nobody_asked_about() -> None:
    noted = Noted(StoreError("the database is away"))

    async def use(events: LearningEvents) -> None:
        for count in (1, 2):
            events.take("ANNOTATION_CREATED", "7")
            await when(lambda count=count: len(noted.considered) == count)  # type: ignore[misc]
            await asyncio.sleep(0.05)

    play(noted, use)
    assert noted.told == []


@pytest.mark.parametrize(
    ("action", "project", "connected"),
    [
        ("PROJECT_UPDATED", "7", True),
        ("ANNOTATION_CREATED", "seven", True),
        ("START_TRAINING", "seven", True),
        ("START_TRAINING", "7", False),
        ("ANNOTATION_CREATED", "7", False),
    ],
)
def test_what_teaches_nothing_is_left_alone(action: str, project: str, connected: bool) -> None:
    noted = Noted()

    async def use(events: LearningEvents) -> None:
        events.take(action, project)
        await asyncio.sleep(0.1)

    play(noted, use, connected=connected)
    assert (noted.considered, noted.started, noted.told) == ([], [], [])


def test_a_backend_that_ends_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.runs.training.events._SETTLE", 0.1)
    noted = Noted()

    async def use(events: LearningEvents) -> None:
        events.take("ANNOTATION_CREATED", "7")
        await asyncio.sleep(0)
        await events.close()
        await asyncio.sleep(0.2)

    play(noted, use)
    assert noted.considered == []
