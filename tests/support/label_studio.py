"""The tests' stand-in for Label Studio, over a real socket, with faults on order.

Its answers are the recorded ones of the real 1.23.2 (`tests.support.conversation`) with values put in. It is faithful
where it matters: predictions are never deduplicated, invalid ones are dropped without a word, a task of another project
fails the whole push, drafts and versions are in the task list only where columns are asked for, personal access tokens
are exchanged, and asking for a task alone is not offered.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from tests.support.conversation import recorded
from tests.support.harness import POLYGONS, encoded, fake_jwt, picture
from tests.support.http_server import HttpServer, Reply, Request, http_server, json_reply

TOKEN = "legacy-token"
PAT = fake_jwt(token_type="refresh", exp=9e9)

Fault = int | Literal["down", "after", "half", "lost", "garbage"]
"""A status; ``after`` does what was asked and says 500; ``half`` and ``lost`` too, and send half an answer or none."""

_KINDS = {
    "/api/tasks": "tasks",
    "/api/version": "version",
    "/api/ml": "ml",
    "/api/projects": "projects",
    "/api/current-user/whoami": "whoami",
}


@dataclass
class LabelStudio:
    """One project with its tasks, predictions and connections, uploads and tokens.

    Attributes:
        prefix: the path it is mounted under.
        valid: the ``Authorization`` headers that are let in; empty lets everybody in.
        refresh: the personal access token that can be exchanged; each exchange makes a new header the only valid one.
        lifetime: seconds that an exchanged token says it lives.
        files: answers by path, or path and query; they go before everything but the tokens.
        redirects: where a path, or the cloud address of a file, leads.
        project: as ``/api/projects/ID`` describes it; ``others`` are listed beside it.
        tasks: by id; each has ``data``, and may have ``total_annotations`` and ``draft_exists``.
        predictions: by task.
        connections, webhooks: as they are listed; ``views`` titles by id.
        refuse: tasks whose predictions are dropped.
        faults: by kind of request (``POST push``), used up one by one.
        down: whether nothing is answered at all.
        on_push: is told of predictions before they are kept.
        gate: task lists wait for it.
        kinds: of the requests so far; ``patches`` are the bodies of changes with their path.
    """

    prefix: str = ""
    valid: set[str] = field(default_factory=set)
    refresh: str = ""
    lifetime: float = 300.0
    retry_after: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    project: dict[str, Any] = field(default_factory=lambda: recorded("project") | {"label_config": POLYGONS})
    others: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    connections: list[dict[str, Any]] = field(default_factory=list)
    webhooks: list[dict[str, Any]] = field(default_factory=list)
    views: dict[int, str] = field(default_factory=dict)
    refuse: set[int] = field(default_factory=set)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    down: Callable[[], bool] = field(default=lambda: False)
    on_push: Callable[[list[dict[str, Any]]], Any] = field(default=lambda _: None)
    gate: threading.Event = field(default_factory=threading.Event)
    kinds: list[str] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    exchanges: int = 0
    server: HttpServer = field(default_factory=lambda: HttpServer(0))
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def url(self) -> str:
        return f"{self.server.url}{self.prefix}"

    @property
    def requests(self) -> list[Request]:
        return self.server.requests

    def pushed(self) -> list[dict[str, Any]]:
        """All predictions."""
        with self.lock:
            return [entry for found in self.predictions.values() for entry in found]

    def versions(self) -> dict[int, list[str]]:
        """The model versions of each task's predictions."""
        with self.lock:
            return {task: [p["model_version"] for p in self.predictions.get(task, [])] for task in self.tasks}

    def keep(self, items: list[dict[str, Any]]) -> None:
        """Store predictions, as a push does."""
        for item in items:
            self.predictions.setdefault(item["task"], []).append({"id": next(self.numbers), **item})

    def answer(self, request: Request) -> Reply | None:
        path = request.path.removeprefix(self.prefix)
        kind = f"{request.method} {_kind(path)}"
        if kind == "GET tasks":
            assert self.gate.wait(30)
        with self.lock:
            self.kinds.append(kind)
            waiting = self.faults.get(kind, [])
            fault = "down" if self.down() else waiting.pop(0) if waiting else None
            if fault == "down":
                return None
            if isinstance(fault, int):
                return Reply(b"later", fault, {"Retry-After": str(self.retry_after)})
            reply = self._answer(request, path)
        match fault:
            case "after":
                return Reply(b"{}", 500)
            case "lost":
                return None
            case "half":
                return replace(reply, sent=len(reply.body) // 2)
            case "garbage":
                return Reply(b"<html>please wait</html>")
        return reply

    def _answer(self, request: Request, path: str) -> Reply:
        if path == "/api/token/refresh/":
            return self._exchange(request.json().get("refresh"))
        if path in self.redirects:
            return Reply(b"", 302, {"Location": self.redirects[path]})
        own_path = path.startswith(("/api/", "/data/", "/tasks/", "/storage-data/"))
        if self.valid and own_path and path != "/api/version" and request.authorization not in self.valid:
            return json_reply(recorded("no_token"), 401)
        for named in (path, f"{path}?{request.target.partition('?')[2]}"):
            if named in self.files:
                return Reply(self.files[named])
        if path.endswith("/presign/"):
            uri = base64.urlsafe_b64decode(request.query["fileuri"]).decode()
            return Reply(b"", 303, {"Location": self.redirects[uri]})
        status, content = self._api(request, path)
        return Reply(b"", status) if content is None else json_reply(content, status)

    def _api(self, request: Request, path: str) -> tuple[int, Any]:
        number = self.project["id"]
        match request.method, path:
            case "GET", "/api/version" | "/api/current-user/whoami":
                return 200, recorded(path.rpartition("/")[2])
            case "GET", "/api/projects":
                rows = [self.project, *self.others]
                if names := [name for name in request.query.get("include", "").split(",") if name]:
                    rows = [{name: row[name] for name in names} for row in rows]
                return 200, recorded("projects") | {"results": rows, "count": len(rows)}
            case "GET" | "POST", "/api/dm/views":
                return self._views(request)
            case "GET" | "POST" | "PATCH", found if found.startswith(("/api/ml", "/api/webhooks/")):
                return self._settings(request, self.connections if found.startswith("/api/ml") else self.webhooks)
            case "GET", "/api/tasks":
                return self._list(request.query)
            case "GET" | "PATCH", found if found == f"/api/projects/{number}":
                if request.method == "PATCH":
                    self.project |= request.json()
                    self.patches.append({"path": path, **request.json()})
                return 200, self.project
            case "POST", found if found == f"/api/projects/{number}/import/predictions":
                return self._push(request.json())
        drawn = re.fullmatch(r"/api/tasks/(\d+)/annotations/", path)
        if drawn and int(drawn[1]) in self.tasks:
            return self._annotations(request, int(drawn[1]))
        named = re.fullmatch(r"/api/predictions/(\d+)", path)
        if request.method == "DELETE" and named:
            for task, found in self.predictions.items():
                self.predictions[task] = [entry for entry in found if entry["id"] != int(named[1])]
            return 204, None
        known = [entry for found in self.predictions.values() for entry in found]
        changed = [entry for entry in known if named and entry["id"] == int(named[1])]
        if request.method == "PATCH" and changed:
            changed[0].update(request.json())
            return 200, changed[0]
        return 404, recorded("no_project")

    def _annotations(self, request: Request, task: int) -> tuple[int, Any]:
        kept = self.tasks[task].setdefault("annotations", [])
        if request.method == "GET":
            return 200, kept
        kept.append({"id": next(self.numbers), "task": task, "was_cancelled": False, **request.json()})
        self.tasks[task]["total_annotations"] = len(kept)
        return 201, kept[-1]

    def _views(self, request: Request) -> tuple[int, Any]:
        if request.method == "POST":
            number = max(self.views, default=0) + 1
            self.views[number] = request.json()["data"]["title"]
            return 201, recorded("view_made") | {"id": number, **request.json()}
        (template,) = recorded("views")
        listed = self.views if int(request.query["project"]) == self.project["id"] else {}
        return 200, [template | {"id": number, "data": {"title": title}} for number, title in listed.items()]

    def _settings(self, request: Request, rows: list[dict[str, Any]]) -> tuple[int, Any]:
        """List, add or change connections or webhooks; an added connection is reached, as if a backend were there."""
        if request.method == "GET":
            return 200, rows
        self.patches.append({"path": request.target.partition("?")[0], **request.json()})
        if request.method == "POST":
            template = recorded("connections" if rows is self.connections else "webhooks")[0]
            rows.append(template | {"id": len(rows) + 1, "extra_params": None} | request.json())
            return 201, rows[-1]
        number = int(request.target.partition("?")[0].rstrip("/").rpartition("/")[2])
        (row,) = (row for row in rows if row["id"] == number)
        row |= request.json()
        return 200, row

    def _exchange(self, token: str) -> Reply:
        if token != self.refresh:
            return json_reply(recorded("refresh_refused"), 401)
        self.exchanges += 1
        access = fake_jwt(token_type="access", exp=time.time() + self.lifetime, n=self.exchanges)
        self.valid = {f"Bearer {access}"}
        return json_reply({"access": access})

    def _push(self, items: list[dict[str, Any]]) -> tuple[int, Any]:
        self.on_push(items)
        if any(item["task"] not in self.tasks for item in items):
            return 400, recorded("push_refused")
        taken = [item for item in items if item["task"] not in self.refuse]
        self.keep(taken)
        return 201, {"created": len(taken)}

    def _list(self, query: Mapping[str, str]) -> tuple[int, Any]:
        wanted = json.loads(query.get("query", "{}"))
        chosen = wanted.get("selectedItems", {"all": True})
        ids = [task for task in sorted(self.tasks) if chosen["all"] or task in chosen["included"]]
        template = "tasks_looked_at" if "hiddenColumns" in wanted else "tasks_listed"
        for item in wanted.get("filters", {}).get("items", []):
            if item["filter"] == "filter:tasks:id":
                ids = [task for task in ids if task > item["value"]]
            elif item["filter"] == "filter:tasks:total_annotations":
                ids = [task for task in ids if self.tasks[task].get("total_annotations", 0) > item["value"]]
            else:
                assert item["filter"] == "filter:tasks:predictions_model_versions"
                template = "tasks_predicted"
                ids = [task for task in ids if self._versions(task) & set(item["value"])]
        if query.get("fields") == "all":
            template = "tasks_with_predictions"
        size, page = int(query["page_size"]), int(query["page"])
        if page > 1 and (page - 1) * size >= len(ids):
            return 404, recorded("tasks_beyond")
        answer = recorded(template)
        rows = [self._row(task, answer["tasks"][0]) for task in ids[(page - 1) * size : page * size]]
        return 200, answer | {"tasks": rows, "total": len(ids)}

    def _row(self, task: int, template: Mapping[str, Any]) -> dict[str, Any]:
        """The task with the columns of the template; a column of versions that is empty there was not asked for."""
        own = self.predictions.get(task, [])
        facts = {
            "id": task,
            "project": self.project["id"],
            "total_predictions": len(own),
            "predictions_model_versions": template["predictions_model_versions"] and ",".join(self._versions(task)),
            "predictions": [template["predictions"][0] | entry for entry in own] if "predictions" in template else (),
            **self.tasks[task],
        }
        return {name: facts.get(name, value) for name, value in template.items()}

    def _versions(self, task: int) -> set[str]:
        return {entry["model_version"] for entry in self.predictions.get(task, [])}


def _kind(path: str) -> str:
    if path.startswith("/data/"):
        return "image"
    if path.startswith("/api/predictions/"):
        return "prediction"
    return _KINDS.get(path, "push" if path.endswith("/import/predictions") else "project")


def with_uploads(size: int, **options: Any) -> LabelStudio:
    """Project 7 with tasks 1 to ``size``, each with an upload of its own that shows something red."""
    made = LabelStudio(project=recorded("project") | {"id": 7, "label_config": POLYGONS}, **options)
    for number in range(1, size + 1):
        image = picture(box=(10, 10, 12 + number % 50, 12 + number % 40))
        image[0, 0] = (number % 251, number // 251, 5)
        made.tasks[number] = {"data": {"image": f"/data/upload/7/{number}.png"}}
        made.files[f"/data/upload/7/{number}.png"] = encoded(image)
    return made


Kind = TypeVar("Kind", bound=LabelStudio)


@contextmanager
def label_studio(made: Kind) -> Iterator[Kind]:
    """It, running."""
    with http_server(made.answer) as server:
        made.server = server
        yield made
