"""Threads take turns often, and a full garbage collection looks at little."""

from __future__ import annotations

import asyncio
import gc
import sys
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
