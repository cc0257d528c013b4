"""Both Label Studios that `benchmarks.faults` can strike: the tests' stand-in, and the real server behind a relay."""

from __future__ import annotations

import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import httpx

from ml_backend.demo.client import TIMEOUT, DemoClient, sign_in
from ml_backend.demo.processes import free_port
from ml_backend.demo.server import LabelStudioServer, ensure_environment
from tests.support.http_server import Answer, HttpServer, Reply, Request, http_server
from tests.support.label_studio import TOKEN, Fault, LabelStudio, label_studio

ROOT = Path(__file__).resolve().parents[1]
OTHER = "another-model"
Stored = dict[int, list[tuple[int, str]]]
"""By task: number and version of each prediction."""


@dataclass(frozen=True)
class Project:
    """What a round begins with: the tasks, those that a person annotated, another model's prediction by task."""

    id: int
    tasks: Sequence[int]
    people: frozenset[int]
    others: Mapping[int, int]


def freeze(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Stop a process for so long."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


class Studio(Protocol):
    """A Label Studio that can be struck, at an address that outlives it."""

    url: str
    token: str

    def begin(self, config: str, data: Sequence[dict[str, str]], people: set[int], others: set[int]) -> Project:
        """A new project; ``people`` and ``others`` are indices into ``data``."""
        ...

    def freeze(self, seconds: float) -> None:
        """Stand still for so long."""
        ...

    def away(self, seconds: float) -> None:
        """Be gone for so long."""
        ...

    def answer(self, fault: Fault) -> None:
        """Answer the next two pushes so."""
        ...

    def settle(self) -> None:
        """Wait until all that was sent is done, and answer well again."""
        ...

    def predictions(self, project: Project) -> Stored:
        """All predictions of the project."""
        ...


class _Thawing(LabelStudio):
    """Stands still while ``thaw`` is not set; what it was sent meanwhile it does afterwards."""

    thaw: threading.Event

    def answer(self, request: Request) -> Reply | None:
        return super().answer(request) if self.thaw.wait(120) else None


class StandIn:
    """The tests' Label Studio, which does what it was sent even if nobody waits for the answer any more."""

    def __init__(self, server: _Thawing) -> None:
        self._server = server
        self._rounds = 0
        self.url, self.token = server.url, TOKEN

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[StandIn]:
        """One on a free port."""
        made = _Thawing(valid={f"Token {TOKEN}"})
        made.thaw = threading.Event()
        made.thaw.set()
        with label_studio(made):
            yield cls(made)

    def begin(self, config: str, data: Sequence[dict[str, str]], people: set[int], others: set[int]) -> Project:
        server, first = self._server, 1000 * self._rounds + 1
        self._rounds += 1
        with server.lock:
            server.project |= {"id": self._rounds, "label_config": config}
            server.tasks = {first + index: {"data": one} for index, one in enumerate(data)}
            for index in people:
                server.tasks[first + index]["total_annotations"] = 1
            other = {"result": [], "score": 0.5, "model_version": OTHER}
            server.predictions = {
                first + at: [{"id": next(server.numbers), "task": first + at, **other}] for at in others
            }
            known = {task: int(found[0]["id"]) for task, found in server.predictions.items()}
            return Project(self._rounds, sorted(server.tasks), frozenset(first + at for at in people), known)

    def freeze(self, seconds: float) -> None:
        self._server.thaw.clear()
        time.sleep(seconds)
        self._server.thaw.set()

    def away(self, seconds: float) -> None:
        self._server.down = lambda: True
        time.sleep(seconds)
        self._server.down = lambda: False

    def answer(self, fault: Fault) -> None:
        with self._server.lock:
            self._server.faults["POST push"] = [fault, fault]

    def settle(self) -> None:
        time.sleep(1.5)
        with self._server.lock:
            self._server.faults.clear()

    def predictions(self, project: Project) -> Stored:
        with self._server.lock:
            known = {task: self._server.predictions.get(task, []) for task in project.tasks}
            return {task: [(one["id"], one["model_version"]) for one in found] for task, found in known.items()}


@dataclass
class _Relay:
    """Hands requests on to the real server and its answers back; of pushes it may lose, halve or invent answers."""

    port: int
    http: httpx.Client
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0

    def __call__(self, request: Request) -> Reply | None:
        pushed = request.method == "POST" and request.path.endswith("/import/predictions")
        with self.lock:
            fault = self.faults.pop(0) if pushed and self.faults else None
            self.under_way += 1
        try:
            if isinstance(fault, int):
                return Reply(b"later", fault, {"Retry-After": "0"})
            return self._handed_on(request, fault)
        finally:
            with self.lock:
                self.under_way -= 1

    def _handed_on(self, request: Request, fault: Fault | None) -> Reply | None:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() != "connection"]
        url = f"http://127.0.0.1:{self.port}{request.target}"
        try:
            found = self.http.request(request.method, url, headers=headers, content=request.body)
        except httpx.TransportError:
            return None
        kept = {name: value for name, value in found.headers.items() if name.lower() in ("content-type", "location")}
        reply = Reply(found.content, found.status_code, kept)
        match fault:
            case "after":
                return Reply(b"{}", 500)
            case "lost" | "down":
                return None
            case "half":
                return replace(reply, sent=len(reply.body) // 2)
            case "garbage":
                return Reply(b"<html>please wait</html>")
        return reply


class RealStudio:
    """Label Studio itself, on SQLite, in one process that is frozen, killed and started again."""

    def __init__(self, start: Callable[[], LabelStudioServer], relay: _Relay, front: HttpServer) -> None:
        self._start, self._relay = start, relay
        self._server = start()
        own = self._server
        self.url = front.url
        self.token = sign_in(own.url, own.email, own.password)
        self._client = DemoClient(own.url, self.token, timeout=TIMEOUT)

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[RealStudio]:
        """One with its data in ``folder``. Raises ``DemoError`` where it cannot be installed or does not come up."""
        program = ensure_environment(ROOT / ".venv-label-studio", log=folder / "install.log", tell=print)
        port, password = free_port(), secrets.token_urlsafe(12)

        def start() -> LabelStudioServer:
            names = {"folder": folder / "label-studio", "log": folder / f"label-studio-{time.monotonic_ns()}.log"}
            return LabelStudioServer.start(program, **names, port=port, email="faults@example.com", password=password)

        with ExitStack() as stack:
            relay = _Relay(port, stack.enter_context(httpx.Client(timeout=300.0, trust_env=False)))
            answer: Answer = relay
            made = cls(start, relay, stack.enter_context(http_server(answer)))
            stack.callback(lambda: made._server.child.stop())
            stack.enter_context(made._client)
            yield made

    def begin(self, config: str, data: Sequence[dict[str, str]], people: set[int], others: set[int]) -> Project:
        client = self._client
        number = client.create_project("faults", config)
        client.json("POST", f"/api/projects/{number}/import", body=[{"data": one} for one in data])
        tasks = sorted(int(task["id"]) for task in client.tasks(number))
        if len(tasks) != len(data):
            raise RuntimeError(f"Label Studio made {len(tasks)} tasks of {len(data)}")
        for index in people:
            client.json("POST", f"/api/tasks/{tasks[index]}/annotations/", body={"result": []})
        known = {}
        for index in others:
            body = {"task": tasks[index], "result": [], "score": 0.5, "model_version": OTHER}
            known[tasks[index]] = int(client.json("POST", "/api/predictions/", body=body)["id"])
        return Project(number, tasks, frozenset(tasks[index] for index in people), known)

    def freeze(self, seconds: float) -> None:
        freeze(self._server.child.process, seconds)

    def away(self, seconds: float) -> None:
        self._server.child.process.kill()
        self._server.child.process.wait()
        time.sleep(seconds)
        self._server = self._start()

    def answer(self, fault: Fault) -> None:
        with self._relay.lock:
            self._relay.faults = [fault, fault]

    def settle(self) -> None:
        time.sleep(1.5)
        self._relay.faults = []
        while self._relay.under_way:
            time.sleep(0.1)

    def predictions(self, project: Project) -> Stored:
        rows = self._client.tasks(project.id)
        return {row["id"]: [(one["id"], one["model_version"]) for one in row["predictions"]] for row in rows}
