"""A Label Studio in good health, to be broken in one way by each test of the doctor."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_backend.doctor.diagnosis import Diagnosis
from ml_backend.doctor.examination import Environment, examine
from ml_backend.settings import Settings
from tests.integration.ml_backend.fetching import PAT
from tests.support.harness import POLYGONS, LabelStudioStub, encoded, picture

UPLOAD = "/data/upload/1/red.png"
HERE = "http://127.0.0.1:9090"
VERSION = "int-nano-int-0123abcd"
GPU = {"name": "H100", "total_gb": 80.0, "free_gb": 78.0}


def _project() -> dict[str, Any]:
    return {
        "id": 1,
        "title": "Frogs",
        "label_config": POLYGONS,
        "model_version": "INT",
        "show_collab_predictions": True,
        "sampling": "Sequential sampling",
    }


def _row() -> dict[str, Any]:
    return {
        "id": 1,
        "state": "CO",
        "url": HERE,
        "error_message": None,
        "title": "INT",
        "auth_method": "NONE",
        "basic_auth_user": "",
        "extra_params": "camouflaged animal",
        "model_version": VERSION,
        "project": 1,
    }


@dataclass
class World(LabelStudioStub):
    """Label Studio's API with the shapes of 1.23.2, and the settings of the backend that looks at it."""

    release: dict[str, Any] | bytes = field(default_factory=lambda: {"release": "1.23.2"})
    user: Any = field(default_factory=lambda: {"email": "ann@example.com"})
    project: dict[str, Any] = field(default_factory=_project)
    others: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=lambda: [_row()])
    webhooks: list[dict[str, Any]] = field(
        default_factory=lambda: [{"url": f"{HERE}/webhook", "headers": {}, "is_active": True}]
    )
    tasks: list[dict[str, Any]] = field(default_factory=lambda: [{"id": 5, "data": {"image": UPLOAD}}])
    names: dict[str, list[str]] = field(default_factory=dict)
    cards: list[dict[str, Any]] = field(default_factory=list)
    ram_gb: float = 16.0
    probe_fails: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    patches: list[dict[str, Any]] = field(default_factory=list)
    folder: Path = Path()

    @property
    def row(self) -> dict[str, Any]:
        return self.rows[0]

    def publish(self) -> None:
        """Put what was set into the stub's files."""
        answers = {
            "/api/current-user/whoami": self.user,
            "/api/projects": {"results": [self.project, *self.others]},
            "/api/projects/1": self.project,
            "/api/ml": self.rows,
            "/api/webhooks/": self.webhooks,
            "/api/tasks": {"tasks": self.tasks, "total": len(self.tasks)},
        }
        for path, answer in answers.items():
            self.files.setdefault(path, json.dumps(answer).encode())

    def answer(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        path = urlsplit(handler.path).path.removeprefix(self.prefix)
        if path == "/api/version" and path not in self.redirects:
            content = self.release if isinstance(self.release, bytes) else json.dumps(self.release).encode()
            return self.send(handler, 200, content)
        if method == "PATCH":
            if handler.headers.get("Authorization") not in self.valid:
                return self.send(handler, 401, b"{}")
            self.patches.append({"path": path, **json.loads(body)})
            return self.send(handler, 200, b"{}")
        return super().answer(handler, method, body)

    def look(self, *, project_id: int | None = None, fix: bool = False) -> list[Diagnosis]:
        self.publish()
        given: dict[str, Any] = {
            "label_studio_url": self.url,
            "label_studio_api_key": PAT,
            "data_dir": self.folder,
            "port": 9,
            "profile": str(self.folder / "tiny.toml"),
            **self.settings,
        }
        return list(examine(Settings(**given), project_id=project_id, fix=fix, environment=self.environment()))

    def environment(self) -> Environment:
        def probe() -> Mapping[str, Any]:
            if self.probe_fails:
                raise RuntimeError(self.probe_fails)
            return {"cuda": self.cards, "mps": False, "ram_gb": self.ram_gb}

        return Environment(probe, lambda host: self.names.get(host, []))


def write_profile(folder: Path, memory_gb: float = 1.0) -> None:
    """A profile whose weights are (empty shells) in the folder."""
    lines = [f"[meta]\nmemory_gb = {memory_gb}", '[inpainter]\nkind = "opencv"']
    for role in ("vlm", "detector", "segmenter", "text_image"):
        (folder / role).mkdir(exist_ok=True)
        (folder / role / "config.json").write_text("{}")
        (folder / role / "model.safetensors").write_bytes(b"weights")
        lines.append(f'[{role}]\nid = "./{role}"')
    (folder / "tiny.toml").write_text("\n".join(lines))


@contextmanager
def running(world: World) -> Iterator[World]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            world.answer(self, self.command, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    world.url = f"http://127.0.0.1:{server.server_port}{world.prefix}"
    world.files[UPLOAD] = encoded(picture())
    world.refresh, world.valid = PAT, {"nothing yet"}
    write_profile(world.folder)
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
