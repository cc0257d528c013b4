"""How many connections the descriptors allow, and what is said of them how often."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from ml_backend.api import sockets
from ml_backend.api.sockets import guarded, most_connections, quiet_about_sockets

FOREVER = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "set_to", "expected"),
    [
        (FOREVER, FOREVER, None, 1000),
        (256, 256, None, 96),
        (256, 1024, 1024, 480),
        (256, 100_000, 4000, 1000),
        (256, FOREVER, 4000, 1000),
        (4000, 100_000, None, 1000),
        (5000, 100_000, None, 1000),
        (2064, 2064, None, 1000),
        (2062, 2062, None, 999),
        (64, 64, None, 16),
        (98, 98, None, 17),
        (96, 96, None, 16),
    ],
)
def test_half_of_the_descriptors_are_for_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, set_to: int | None, expected: int
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: seen.append(given))
    assert most_connections() == expected
    assert seen == ([] if set_to is None else [(set_to, hard)])


def test_the_same_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    monkeypatch.setattr(sockets, "_said", {})
    monkeypatch.setattr(sockets, "time", SimpleNamespace(monotonic=lambda: now[0]))
    loop = asyncio.new_event_loop()
    others: list[Any] = []
    try:
        quiet_about_sockets(loop)
        monkeypatch.setattr(loop, "default_exception_handler", others.append)
        full = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
        with caplog.at_level(logging.WARNING):
            for now[0] in (1000.0, 1001.0, 1059.9, 1060.0, 1061.0):
                loop.call_exception_handler(full)
            loop.call_exception_handler({"message": "something else"})
            loop.call_exception_handler({})
    finally:
        loop.close()
    assert len(caplog.messages) == 2
    assert set(caplog.messages) == {
        "no connection can be accepted: [Errno 24] Too many open files; raise the limit of open files"
    }
    assert others == [{"message": "something else"}, {}]


# --- one connection after the other, with a loop that only notes its timers


class Timer:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Notes what is to be called later."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, call: Callable[[], None], *_: object) -> Timer:
        self.timers.append(Timer(seconds, call))
        return self.timers[-1]

    def create_task(self, work: Any, **_: Any) -> Any:
        work.close()  # the application is not run here
        return Work()

    @property
    def running(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled and timer.seconds == 7.0]


class Work:
    def add_done_callback(self, _call: object) -> None:
        pass


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def get_extra_info(self, _name: str) -> Any:
        return None

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        pass

    def close(self) -> None:
        self.aborted = True


class House:
    """Connections of one server, of which so many may be open."""

    def __init__(self, most: int) -> None:
        self.loop = Loop()
        self.config = uvicorn.Config(lambda *_: None, log_level="critical", http=guarded(most, 7.0), lifespan="off")
        self.config.load()
        self.state = ServerState()

    def enter(self, sent: bytes = b"") -> Any:
        kind: Any = self.config.http_protocol_class
        made = kind(config=self.config, server_state=self.state, app_state={}, _loop=self.loop)
        made.connection_made(Transport())
        if sent:
            made.data_received(sent)
        return made


HALF, WHOLE = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_head_has_a_deadline_until_it_is_complete() -> None:
    house = House(10)
    for sent, watched in ((b"", True), (HALF, True), (WHOLE, False)):
        house.loop.timers.clear()
        one = house.enter(sent)
        assert [bool(house.loop.running), one.without_request] == [watched, watched]
    house.loop.timers.clear()
    late = house.enter(HALF)
    (timer,) = house.loop.running
    late.data_received(b"x")
    assert house.loop.running == [timer], "more of a head is no reason to wait longer"
    timer.call()
    assert late.transport.aborted
    assert late not in house.state.connections


def test_a_deadline_that_comes_with_the_request_ends_nothing() -> None:
    house = House(10)
    one = house.enter(HALF)
    (timer,) = house.loop.running
    one.data_received(b"x\r\n\r\n")
    assert timer.cancelled
    timer.call()  # it was on its way already
    assert not one.transport.aborted


def test_a_connection_that_ends_is_watched_no_more() -> None:
    house = House(10)
    one = house.enter()
    (timer,) = house.loop.running
    one.connection_lost(None)
    assert timer.cancelled


def test_one_too_many_closes_the_oldest_without_a_request() -> None:
    house = House(3)
    first, busy, third = house.enter(WHOLE), house.enter(HALF), house.enter()
    assert [one.transport.aborted for one in (first, busy, third)] == [False, False, False]
    fourth = house.enter()
    assert [one.transport.aborted for one in (first, busy, third, fourth)] == [False, True, False, False]
    assert house.state.connections == {first, third, fourth}
    fifth = house.enter(WHOLE)
    assert [one.transport.aborted for one in (first, third, fourth, fifth)] == [False, True, False, False]


def test_with_everybody_at_work_the_newcomer_is_turned_away() -> None:
    house = House(2)
    first, second = house.enter(WHOLE), house.enter(WHOLE)
    third = house.enter()
    assert [one.transport.aborted for one in (first, second, third)] == [False, False, True]
    assert not house.loop.running


def test_the_limits_of_a_service() -> None:
    assert (sockets.HEADER_SECONDS, sockets.BACKLOG, sockets.GuardedProtocol.most) == (15.0, 64, 1000)
    assert guarded(5).header_seconds == 15.0
