"""Threads take turns often, and a full garbage collection looks at little."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from ml_backend import interpreter
from tests.support.interpreter import longest_hold


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()


def test_a_full_collection_does_not_look_at_what_was_there_before() -> None:
    there = [[] for _ in range(300_000)]
    before, _ = longest_hold(gc.collect)
    interpreter.share()
    after, _ = longest_hold(gc.collect)
    assert after < 0.25 * before
    assert gc.get_freeze_count() > len(there)
    assert sys.getswitchinterval() < 0.001


class _Ring:
    """Refers to itself, so only a collection frees it."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_is_freed_and_not_kept_for_ever() -> None:
    gc.disable()
    try:
        gone = weakref.ref(_Ring())
        assert gone() is not None
        interpreter.share()
        assert gone() is None
    finally:
        gc.enable()


def test_others_have_their_turn_while_the_models_are_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < interpreter._LOOK_SECONDS <= 1, "what is made in the meantime is looked at until then"
    monkeypatch.setattr(interpreter, "_LOOK_SECONDS", 0.0)
    turns: list[int] = []

    async def beside() -> None:
        while len(turns) < 5:
            turns.append(1)
            await asyncio.sleep(0)

    def ready() -> bool:
        looks.append(len(turns))
        return len(looks) == 20

    async def both() -> None:
        await asyncio.gather(beside(), interpreter.share_once(ready))

    looks: list[int] = []
    asyncio.run(both())
    assert looks[-1] == 5


def test_what_the_models_bring_is_left_out_once_they_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_LOOK_SECONDS", 0.0)
    interpreter.share()
    frozen, looks, made = gc.get_freeze_count(), iter([False, False, True]), []

    def ready() -> bool:
        assert gc.get_freeze_count() <= frozen
        made.append([[] for _ in range(10_000)])
        return next(looks)

    asyncio.run(interpreter.share_once(ready))
    assert gc.get_freeze_count() >= frozen + 25_000
