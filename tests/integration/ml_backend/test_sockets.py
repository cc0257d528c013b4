"""Connections that send nothing, or half a head, over real sockets: /health answers, and the log stays small."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from ml_backend.api import sockets
from ml_backend.api.sockets import guarded, quiet_about_sockets

HALF = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "


async def app(scope: dict[str, object], receive: object, send: object) -> None:
    """Answers 200 after the body has come."""
    assert callable(receive)
    assert callable(send)
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(most: int, seconds: float) -> Iterator[int]:
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", http=guarded(most, seconds))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def connected(port: int, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=5)
    made.sendall(sent)
    return made


def closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("sent", [b"", b"G", HALF], ids=["nothing", "a letter", "half a head"])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    with serving(100, 0.4) as port, connected(port, sent) as one:
        assert not closed(one, 0.15)
        assert closed(one, 2.0)


def test_a_head_that_comes_letter_by_letter_has_the_same_deadline() -> None:
    with serving(100, 0.5) as port, connected(port) as one:
        sent = 0
        with suppress(ConnectionError):
            for number in range(100):
                one.sendall(HALF[number % len(HALF)].to_bytes())
                sent += 1
                time.sleep(0.05)
        assert 5 < sent < 40


def test_the_head_of_a_second_request_has_a_deadline_too() -> None:
    with serving(100, 0.5) as port, connected(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as one:
        one.settimeout(5)
        while not one.recv(4096).endswith(b"ok"):
            pass
        one.sendall(HALF)
        assert closed(one, 2.0)


def test_bodies_and_answers_that_take_longer_are_left_alone() -> None:
    head = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    with serving(100, 0.3) as port, connected(port, head) as one:
        time.sleep(0.6)
        one.sendall(b"body")
        one.settimeout(5)
        assert one.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_oldest_without_a_request_makes_room_and_requests_do_not() -> None:
    head = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    with serving(6, 30) as port, ExitStack() as stack:
        working = [stack.enter_context(connected(port, head)) for _ in range(3)]
        time.sleep(0.2)
        idle = [stack.enter_context(connected(port, HALF)) for _ in range(20)]
        assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=5).text == "ok"
        assert all(closed(one, 1.0) for one in idle[:17])
        for one in working:
            one.sendall(b"body")
            one.settimeout(5)
            assert one.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_accept_error_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    sockets._said.clear()
    loop = asyncio.new_event_loop()
    quiet_about_sockets(loop)
    error = OSError(24, "Too many open files")
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            message = "socket.accept() out of system resource"
            loop.call_exception_handler({"message": message, "exception": error, "socket": None})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be accepted: [Errno 24] Too many open files; raise the limit of open files"
    ]


_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
sys.argv = ["int-backend", "serve", "--host", "127.0.0.1", "--port", sys.argv[1]]
from ml_backend.cli.main import app
app()
"""


def test_400_silent_sockets_at_256_descriptors_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1000), hard))
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path / "data"))
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(port)], stdout=out, stderr=out)
    try:
        limit = time.monotonic() + 120
        while b"startup complete" not in log.read_bytes():
            assert time.monotonic() < limit, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(connected(port, HALF))
            for _ in range(5):
                assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=5).status_code == 200
                time.sleep(0.2)
        assert log.stat().st_size < 20_000, log.read_text()[-3000:]
        assert "at the limit of 96" in log.read_text()
    finally:
        process.terminate()
        process.wait(30)
