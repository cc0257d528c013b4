"""A small stand-in for Label Studio that never fails, with pictures in the tasks themselves: for many fast tasks."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "legacy-token"


@dataclass
class SmallLabelStudio:
    """One project, number 1. ``predictions`` by task, each as Label Studio lists it."""

    config: str
    tasks: dict[int, dict[str, Any]]
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    url: str = ""
    slow: threading.Event | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        match method, path:
            case "GET", "/api/projects/1":
                return 200, {"id": 1, "label_config": self.config, "show_collab_predictions": True}
            case "GET", "/api/ml":
                return 200, []
            case "GET", "/api/version":
                return 200, {}
            case "GET", "/api/tasks":
                return 200, {"tasks": self.page({key: values[0] for key, values in query.items()})}
            case "POST", "/api/projects/1/import/predictions":
                return 201, {"created": self.keep(body)}
        return 404, {"detail": f"{method} {path}"}

    def page(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        if self.slow is not None:
            assert self.slow.wait(30)
        wanted = json.loads(query.get("query", "{}"))
        ids = wanted.get("selectedItems", {}).get("included", self.tasks)
        with self.lock:
            chosen = [task for task in sorted(ids) if task in self.tasks]
            for item in wanted.get("filters", {}).get("items", []):
                if item["filter"] == "filter:tasks:id":
                    chosen = [task for task in chosen if task > item["value"]]
                else:
                    assert item["filter"] == "filter:tasks:predictions_model_versions"
                    chosen = [task for task in chosen if self.versions(task) & set(item["value"])]
            size, page = int(query["page_size"]), int(query["page"])
            return [self.row(task, query) for task in chosen[(page - 1) * size : page * size]]

    def row(self, task: int, query: Mapping[str, str]) -> dict[str, Any]:
        found = self.predictions.get(task, [])
        row = {
            "id": task,
            "data": self.tasks[task],
            "total_annotations": 0,
            "cancelled_annotations": 0,
            "total_predictions": len(found),
            "draft_exists": False,
            "predictions_model_versions": ",".join(sorted(self.versions(task))),
        }
        return row | ({"predictions": list(found)} if query.get("fields") == "all" else {})

    def versions(self, task: int) -> set[str]:
        return {entry["model_version"] for entry in self.predictions.get(task, [])}

    def keep(self, body: Any) -> int:
        with self.lock:
            for entry in body:
                assert entry["task"] in self.tasks
                self.predictions.setdefault(entry["task"], []).append({**entry, "id": next(self.numbers)})
        return len(body)


@contextmanager
def small_label_studio(small: SmallLabelStudio) -> Iterator[SmallLabelStudio]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.headers.get("Authorization") != f"Token {TOKEN}":
                status, answer = 401, {"detail": "no"}
            else:
                status, answer = small.answer(self.command, parts.path, parse_qs(parts.query), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    small.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield small
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
