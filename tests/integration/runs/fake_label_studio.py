"""What batch runs need of Label Studio, over a real socket, with faults on order.

Faithful where it matters: predictions are never deduplicated, invalid ones are dropped without a word, a task of
another project fails the whole call, and asking for a task alone is not offered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.harness import POLYGONS, encoded, picture

Fault = Literal["down", "429", "500", "500 after", "half", "lost", "garbage"]
"""``500 after`` does what was asked first; ``half`` and ``lost`` too, but send half of the answer, or nothing."""


@dataclass
class Task:
    """A task, and what people did to it."""

    id: int
    image: bytes
    annotations: int = 0
    draft: bool = False


@dataclass
class FakeLabelStudio:
    """One project, 7, of tasks 1 to ``size``."""

    size: int = 20
    label_config: str = POLYGONS
    url: str = ""
    tasks: dict[int, Task] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    down: Callable[[], bool] = field(default=lambda: False)
    refuse: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        for number in range(1, self.size + 1):
            image = picture(box=(10, 10, 12 + number % 50, 12 + number % 40))
            image[0, 0] = (number % 251, number // 251, 5)
            self.tasks[number] = Task(number, encoded(image))

    def versions(self) -> dict[int, list[str]]:
        with self.lock:
            return {t: [p["model_version"] for p in self.predictions if p["task"] == t] for t in self.tasks}

    def answer(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        parts = urlsplit(handler.path)
        kind = f"{method} {self._kind(parts.path)}"
        with self.lock:
            self.requests.append(kind)
            waiting = self.faults.get(kind, [])
            fault: Fault | None = "down" if self.down() else waiting.pop(0) if waiting else None
            if fault == "down":
                return self._drop(handler)
            if fault == "429":
                return self._send(handler, 429, b"{}", {"Retry-After": "7"})
            if fault == "500":
                return self._send(handler, 500, b"{}")
            status, answer = self._do(method, parts.path, parse_qs(parts.query), body)
            if fault == "500 after":
                return self._send(handler, 500, b"{}")
            if fault == "lost":
                return self._drop(handler)
            if fault == "half":
                return self._send(handler, status, answer[: len(answer) // 2], length=len(answer))
            if fault == "garbage":
                return self._send(handler, 200, b"<html>please wait</html>")
            return self._send(handler, status, answer)

    @staticmethod
    def _kind(path: str) -> str:
        named = {"/api/tasks": "tasks", "/api/version": "version", "/api/ml": "ml"}
        if path.startswith("/data/"):
            return "image"
        if path.startswith("/api/predictions/"):
            return "prediction"
        return named.get(path, "push" if path.endswith("/import/predictions") else "project")

    def _do(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, bytes]:
        if path == "/api/version":
            return _json(200, {"release": "1.23.2"})
        if path == "/api/ml":
            return _json(200, [])
        if path.startswith("/data/upload/"):
            task = self.tasks.get(int(path.rsplit("/", 1)[1].partition(".")[0]))
            return (200, task.image) if task else (404, b"")
        if path == "/api/tasks":
            return self._list(query)
        if path.startswith("/api/predictions/"):
            wanted = int(path.rsplit("/", 1)[1])
            self.predictions = [p for p in self.predictions if p["id"] != wanted]
            return 204, b""
        if path == "/api/projects/7/import/predictions":
            return self._push(json.loads(body))
        if path == "/api/projects/7":
            if method == "PATCH":
                self.changes.append(json.loads(body))
            return _json(200, {"id": 7, "label_config": self.label_config, "show_collab_predictions": True})
        return 404, b"{}"

    def _push(self, items: list[dict[str, Any]]) -> tuple[int, bytes]:
        if any(item["task"] not in self.tasks for item in items):
            return _json(400, {"detail": "Validation error"})
        taken = [item for item in items if item["task"] not in self.refuse]
        for item in taken:
            self.predictions.append({**item, "id": len(self.predictions) + 1000})
        return _json(201, {"created": len(taken)})

    def _list(self, query: dict[str, list[str]]) -> tuple[int, bytes]:
        wanted = json.loads(query["query"][0])
        ids = sorted(self.tasks)
        if "selectedItems" in wanted:
            ids = [task for task in ids if task in wanted["selectedItems"]["included"]]
        for item in wanted.get("filters", {}).get("items", []):
            if item["filter"] == "filter:tasks:id":
                ids = [task for task in ids if task > item["value"]]
            else:
                having = {p["task"] for p in self.predictions if p["model_version"] in item["value"]}
                ids = [task for task in ids if task in having]
        size, page = int(query["page_size"][0]), int(query["page"][0])
        whole = query.get("fields") == ["all"]
        rows = [self._row(self.tasks[task], whole) for task in ids[(page - 1) * size : page * size]]
        return _json(200, {"tasks": rows, "total": len(ids)})

    def _row(self, task: Task, whole: bool) -> dict[str, Any]:
        own = [p for p in self.predictions if p["task"] == task.id]
        row = {
            "id": task.id,
            "data": {"image": f"/data/upload/7/{task.id}.png"},
            "total_annotations": task.annotations,
            "cancelled_annotations": 0,
            "total_predictions": len(own),
            "draft_exists": task.draft,
            "predictions_model_versions": ",".join({p["model_version"] for p in own}),
        }
        return {**row, "predictions": own} if whole else row

    @staticmethod
    def _drop(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(2)

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True


def _json(status: int, content: Any) -> tuple[int, bytes]:
    return status, json.dumps(content).encode()


@contextmanager
def served(fake: FakeLabelStudio) -> Iterator[FakeLabelStudio]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            fake.answer(self, self.command, self.rfile.read(length))

        do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - names that the base class looks for

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
