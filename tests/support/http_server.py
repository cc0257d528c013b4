"""The tests' HTTP server: a function answers every request, over a real socket, in threads; everything is recorded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: ``target`` is the path with its query, as sent; header names in any case."""

    method: str
    target: str
    headers: Message
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. ``sent`` is how many bytes of the body go out before the connection ends, None for all."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: int | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for the wire, head and all, one chunk after the other; then the connection ends."""

    chunks: Iterable[bytes]


Answer = Callable[[Request], Reply | Raw | None]
"""None ends the connection without a word."""


def json_reply(content: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


def by_path(replies: Mapping[str, Reply | Raw | Callable[[], Reply | Raw]]) -> Answer:
    """Answers by path; 404 for any other."""

    def answer(request: Request) -> Reply | Raw | None:
        found = replies.get(request.path, Reply(status=404))
        return found() if callable(found) else found

    return answer


@dataclass
class HttpServer:
    """Where it is, what it was asked, and how many connections were made, also by those who asked nothing."""

    port: int
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def http_server(answer: Answer, port: int = 0) -> Iterator[HttpServer]:
    """A server on a free port of the loopback interface, or on the one that an earlier server has left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(self.command, self.path, self.headers, self.rfile.read(length))
            running.requests.append(request)
            with suppress(OSError):  # the other side has gone
                self.send(answer(request))

        def send(self, reply: Reply | Raw | None) -> None:
            if not isinstance(reply, Reply):
                self.close_connection = True
                for chunk in reply.chunks if reply else ():
                    self.wfile.write(chunk)
                self.connection.shutdown(2)
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: reply.sent])
            self.close_connection = self.close_connection or reply.sent is not None

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = respond  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def process_request(self, *arguments: Any) -> None:
            running.connections += 1
            super().process_request(*arguments)

    server = Server(("127.0.0.1", port), Handler)
    running = HttpServer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
