"""A proxy in front of a real Label Studio that can be told to be down, to refuse, or to lose half of an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

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

    def answer(self, handler: BaseHTTPRequestHandler, http: httpx.Client, body: bytes) -> None:
        with self.lock:
            push = handler.path.endswith("/import/predictions")
            self.pushes += push
            self.refused += self.down
            fault = "lost" if self.down else self.faults.pop(0) if push and self.faults else ""
            if self.down:
                return self._drop(handler)
        if fault.isdigit():
            return self._send(handler, int(fault), b"{}", {"Retry-After": "1"} if fault == "429" else {}, 2)
        headers = {key: value for key, value in handler.headers.items() if key.lower() not in _HOP}
        got = http.request(handler.command, f"{self.target}{handler.path}", headers=headers, content=body)
        if fault == "lost":
            return self._drop(handler)
        passed = {key: value for key, value in got.headers.items() if key.lower() not in _HOP}
        length = len(got.content)
        return self._send(handler, got.status_code, got.content[: length // 2 if fault else None], passed, length)

    @staticmethod
    def _drop(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(2)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], length: int) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = len(body) < length


@contextmanager
def bad_line(target: str) -> Iterator[BadLine]:
    line = BadLine(target)
    with httpx.Client(timeout=120, trust_env=False, follow_redirects=False) as http:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                line.answer(self, http, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - names that the base class looks for

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        line.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield line
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
