"""A proxy in front of a real Label Studio that can be told to be down, to refuse, or to lose half of an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.http_server import Reply, Request, http_server

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"})


@dataclass
class BadLine:
    """``faults`` are used up by pushes of predictions, one each: a status instead, or ``half`` or ``lost`` answers."""

    target: str
    url: str = ""
    down: bool = False
    faults: list[str] = field(default_factory=list)
    pushes: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request, http: httpx.Client) -> Reply | None:
        with self.lock:
            push = request.path.endswith("/import/predictions")
            self.pushes += push
            self.refused += self.down
            fault = "lost" if self.down else self.faults.pop(0) if push and self.faults else ""
            if self.down:
                return None
        if fault.isdigit():
            return Reply(b"{}", int(fault), {"Retry-After": "1"} if fault == "429" else {})
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        got = http.request(request.method, f"{self.target}{request.target}", headers=headers, content=request.body)
        if fault == "lost":
            return None
        passed = {key: value for key, value in got.headers.items() if key.lower() not in _HOP}
        return Reply(got.content, got.status_code, passed, len(got.content) // 2 if fault else None)


@contextmanager
def bad_line(target: str) -> Iterator[BadLine]:
    line = BadLine(target)
    with (
        httpx.Client(timeout=120, trust_env=False, follow_redirects=False) as http,
        http_server(lambda request: line.answer(request, http)) as server,
    ):
        line.url = server.url
        yield line
