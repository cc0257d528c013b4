"""64 clients at once against a real ``int-backend serve`` while its models work: waiting times, losses, memory.

    python -m benchmarks.load [--seconds 60] [--clients 64] [--pause 0.25] [--apart] [--json FILE]
    python -m benchmarks.load --soak 600

The backend is a process of its own with the bundled miniature models. Clients keep their connections; most pause
between requests, those that ask for predictions never do, so the models are never idle. Every predicted image is new to
the backend, so that no result comes from its store. Two further clients ask an empty server in another process (row
"control"): where its waiting times are long, the machine is busy, not the backend. ``--apart`` gives the backend one
half of the cores and everything else the other half (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from rich.console import Console
from rich.table import Table

from ml_backend.demo.samples import load_samples, samples_folder

CONFIG = (
    '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image" smart="true">'
    '<Label value="Thing"/></KeyPointLabels><BrushLabels name="mask" toName="image"><Label value="Thing" '
    'model_prompt="camouflaged animal"/></BrushLabels></View>'
)
ROLES = {"/health": 16, "/setup": 12, "/webhook": 12, "/predict": 10, "click": 6, "/versions": 4, "/metrics": 4}
"""Clients of 64 by what they ask for."""

PAUSES = {"/predict": 0.0, "click": 4.0}
"""Where the pause between requests is not --pause, but so many times that: people look before they click again."""

CONTROL = "control"
_EMPTY_SERVER = """
import asyncio
async def talk(reader, writer):
    while await reader.readline():
        while (await reader.readline()).strip():
            pass
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 15\\r\\n\\r\\n" + b'{"status":"UP"}')
async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
"""A server that does nothing else: what the machine itself, busy with models and all else, takes to answer."""

TARGETS = {"/health": 50.0, "/setup": 200.0, "/webhook": 200.0}
"""Milliseconds that the 99th percentile is to stay below."""

_IDLE = 3.0  # the backend closes connections that were idle for 5 s
_PATIENCE = 120.0


@dataclass
class Tally:
    """What was seen. Milliseconds by role, failures by role, images by outcome, (second, MB) of the backend.

    ``loop_ran`` and ``loop_queued``: parts of the time that the backend's event loop was on a core, and was ready but
    had to wait for one.
    """

    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    images: dict[str, int] = field(default_factory=lambda: {"predicted": 0, "late or failed": 0, "clicked": 0})
    memory: list[tuple[float, float]] = field(default_factory=list)
    own_lag: list[float] = field(default_factory=list)
    cores: float = 0.0
    loop_ran: float = 0.0
    loop_queued: float = 0.0


class Wire:
    """One client's connection: HTTP/1.1 with as little work as possible, so that the client is not what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        reader, writer = await self._connected()
        head = f"{method} {path} HTTP/1.1\r\nHost: backend\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        self._used = time.monotonic()
        return int(lines[0].split()[1]), answer

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if time.monotonic() - self._used > _IDLE:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        return self._streams


def scenes() -> list[bytes]:
    """The bundled sample pictures as PNG."""
    found = []
    for sample in load_samples(samples_folder()):
        out = io.BytesIO()
        PilImage.open(sample.image).convert("RGB").save(out, "PNG")
        found.append(out.getvalue())
    return found


class Questions:
    """Bodies of requests. A number behind a picture's end makes it new to the backend and changes no pixel."""

    def __init__(self) -> None:
        self._scenes = scenes()
        self._numbers = count()
        self._start = str(time.time_ns())

    def of(self, role: str, client: int) -> tuple[str, str, bytes]:
        """Method, path and body for a role."""
        if role in ("/health", "/versions", "/metrics", CONTROL):
            return "GET", "/health" if role == CONTROL else role, b""
        if role == "/setup":
            return "POST", role, _json({"project": f"{client}.1", "schema": CONFIG, "extra_params": f"thing {client}"})
        if role == "/webhook":
            return "POST", role, _json({"action": "ANNOTATION_CREATED", "project": {"id": client}, "annotation": {}})
        if role == "click":
            return "POST", "/predict", self._predict(client, self._picture(client % 4, "click"), self._click())
        return "POST", "/predict", self._predict(client, self._picture(next(self._numbers), self._start), None)

    def _picture(self, number: int, mark: str) -> str:
        data = self._scenes[number % len(self._scenes)] + f"{mark} {number}".encode()
        return "data:image/png;base64," + base64.b64encode(data).decode()

    @staticmethod
    def _click() -> dict[str, Any]:
        value = {"x": random.uniform(5, 95), "y": random.uniform(5, 95), "width": 0.3, "keypointlabels": ["Thing"]}  # noqa: S311
        prompt = {"type": "keypointlabels", "from_name": "point", "to_name": "image", "is_positive": True}
        return {"result": [prompt | {"value": value}]}

    @staticmethod
    def _predict(client: int, picture: str, context: dict[str, Any] | None) -> bytes:
        task = {"id": client, "data": {"image": picture}}
        return _json({"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": context}})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def judge(role: str, status: int, body: bytes, tally: Tally) -> str:
    """What is wrong with an answer, or ""; counts images."""
    if status != (201 if role == "/webhook" else 200):
        return f"status {status}"
    if role == "/metrics":
        return "" if b"int_tasks_total" in body else "no metrics"
    answer = json.loads(body)
    if role in ("/health", CONTROL):
        return "" if answer["status"] == "UP" else "not up"
    if role in ("/predict", "click"):
        if len(answer["results"]) != 1:
            return f"{len(answer['results'])} results for 1 task"
        if role == "click":
            tally.images["clicked"] += 1
        else:
            tally.images["predicted" if answer["results"][0] else "late or failed"] += 1
    return ""


async def client(number: int, role: str, port: int, until: float, pause: float, ask: Questions, tally: Tally) -> None:
    """One client until the time is up."""
    wire, rng = Wire(port), random.Random(number)  # noqa: S311
    pause *= PAUSES.get(role, 1.0)
    await asyncio.sleep(rng.uniform(0, 1))
    while time.monotonic() < until:
        method, path, body = ask.of(role, number)
        started = time.perf_counter()
        try:
            status, answer = await asyncio.wait_for(wire.ask(method, path, body), _PATIENCE)
            waited = 1000 * (time.perf_counter() - started)
            wrong = judge(role, status, answer, tally)
        except (OSError, EOFError, ValueError, KeyError, TimeoutError, StopIteration) as error:
            waited, wrong = 1000 * (time.perf_counter() - started), f"{type(error).__name__}: {error}"
            wire.close()
        tally.waits[role].append(waited)
        if wrong:
            tally.failed[role].append(wrong)
        if pause:
            await asyncio.sleep(rng.expovariate(1 / pause))
    wire.close()


async def every(seconds: float) -> AsyncIterator[float]:
    """The lateness of a wake-up that was due every so many seconds: what the measuring process adds by itself."""
    while True:
        due = time.perf_counter() + seconds
        await asyncio.sleep(seconds)
        yield 1000 * (time.perf_counter() - due)


async def load(port: int, pid: int, options: argparse.Namespace, seconds: float) -> Tally:
    """All clients at once, and samples of the backend's memory."""
    tally, ask = Tally(), Questions()
    begin, cpu, loop = time.monotonic(), _cpu_seconds(pid), _scheduled(pid)
    left_out = ("/predict", "click") if options.idle else ()
    roles = [role for role, share in ROLES.items() for _ in range(share) if role not in left_out]
    roles = [roles[index * len(roles) // options.clients] for index in range(options.clients)]

    async def watch() -> None:
        async for lag in every(0.05):
            tally.own_lag.append(lag)
            if not tally.memory or time.monotonic() - begin > tally.memory[-1][0] + 1:
                tally.memory.append((time.monotonic() - begin, _resident_mb(pid)))

    watching = asyncio.create_task(watch())
    until = begin + seconds
    with empty_server() as other:
        await asyncio.gather(
            *(client(i, role, port, until, options.pause, ask, tally) for i, role in enumerate(roles, start=1)),
            *(client(i, CONTROL, other, until, options.pause, ask, tally) for i in (-1, -2)),
        )
    watching.cancel()
    took = time.monotonic() - begin
    tally.cores = (_cpu_seconds(pid) - cpu) / took
    tally.loop_ran, tally.loop_queued = ((b - a) / took for a, b in zip(loop, _scheduled(pid), strict=True))
    return tally


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds that a process' first thread, where the event loop is, was on a core, and waited for one."""
    ran, queued, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return int(ran) / 1e9, int(queued) / 1e9


@contextmanager
def empty_server() -> Iterator[int]:
    """The port of the control."""
    process = subprocess.Popen([sys.executable, "-c", _EMPTY_SERVER], stdout=subprocess.PIPE)  # noqa: S603
    try:
        yield int(process.stdout.readline() if process.stdout else b"0")
    finally:
        process.kill()
        process.wait()


@contextmanager
def backend(folder: Path, **variables: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a running ``int-backend serve`` whose models are loaded, with ``variables`` set."""
    chosen = {"INT_PROFILE": "nano", "INT_DATA_DIR": str(folder), "INT_LOG_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"}
    chosen |= variables
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("INT_", "LABEL_STUDIO", "BASIC_AUTH"))}
    command = [sys.executable, "-m", "ml_backend.cli.main", "serve", "--host", "127.0.0.1", "--port", "0"]
    log = (folder / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**clean, **chosen})  # noqa: S603
    try:
        port = _wait(lambda: _port(folder / "log"), process)
        _wait(lambda: _ready(port), process)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def _wait(ask: Callable[[], int], process: subprocess.Popen[bytes]) -> int:
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        found = ask()
        if found:
            return found
        if process.poll() is not None:
            raise RuntimeError("the backend ended; see its log")
        time.sleep(0.2)
    raise RuntimeError("the backend did not get ready in three minutes")


def _port(log: Path) -> int:
    found = [line for line in log.read_text().splitlines() if "listening on http://" in line]
    return int(found[0].rpartition(":")[2]) if found else 0


def _ready(port: int) -> int:
    async def ask() -> int:
        status, body = await Wire(port).ask("GET", "/health")
        return int(status == 200 and json.loads(body)["models"] == "ready")

    try:
        return asyncio.run(ask())
    except OSError:  # the port is taken already, but nobody listens yet
        return 0


def slope(memory: list[tuple[float, float]]) -> tuple[float, float, float]:
    """MB at the middle, at the end, and the trend in MB per minute of the second half of the time."""
    half = [entry for entry in memory if entry[0] >= memory[-1][0] / 2]
    seconds, megabytes = np.array(half).T
    trend = 60 * float(np.polyfit(seconds, megabytes, 1)[0]) if len(half) > 2 else 0.0
    return float(megabytes[0]), float(megabytes[-1]), trend


def report(console: Console, tally: Tally, options: argparse.Namespace, seconds: float, busy: list[float]) -> bool:
    """Print everything; whether the targets were met."""
    title = f"{options.clients} clients, {seconds:g} s, pause {options.pause:g} s"
    table = Table("what", "answers", "p50 ms", "p99 ms", "slowest ms", "failed", "target p99", title=title)
    good = True
    for role in (*ROLES, CONTROL):
        waits = sorted(tally.waits[role])
        if not waits:
            continue
        p99, target = waits[min(len(waits) - 1, int(0.99 * len(waits)))], TARGETS.get(role)
        met = target is None or p99 < target
        good = good and met and not tally.failed[role]
        told = "" if target is None else f"< {target:g}: {'met' if met else 'MISSED'}"
        numbers = [f"{value:.1f}" for value in (statistics.median(waits), p99, waits[-1])]
        table.add_row(role, str(len(waits)), *numbers, str(len(tally.failed[role])), told)
    console.print(table)
    for role in [role for role in (*ROLES, CONTROL) if tally.failed[role]]:
        console.print(f"failed {role}: {tally.failed[role][:3]}")
    lag = sorted(tally.own_lag)
    console.print(f"images: {tally.images}; CPU of the backend: {tally.cores:.2f} cores")
    console.print(f"the event loop was on a core {tally.loop_ran:.0%} of the time, and ready but waiting for a core "
                  f"{tally.loop_queued:.0%}")  # fmt: skip
    console.print(f"the measuring process itself was late by p50 {lag[len(lag) // 2]:.1f} ms, "
                  f"p99 {lag[int(0.99 * len(lag))]:.1f} ms")  # fmt: skip
    console.print(f"load average of the machine before {busy[0]:.1f}, after {busy[1]:.1f}; cores: {os.cpu_count()}")
    middle, end, trend = slope(tally.memory)
    begin = tally.memory[0][1]
    console.print(f"memory: {begin:.0f} MB at first, {middle:.0f} MB at half time, {end:.0f} MB at the end, "
                  f"{trend:+.2f} MB per minute in the second half")  # fmt: skip
    return good


def main() -> None:
    """Measure and print; exit status 1 if a target was missed or an answer lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds; the same for longer, with memory over time")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pause", type=float, default=0.25, help="mean pause between a client's requests, seconds")
    parser.add_argument("--idle", action="store_true", help="no predictions and clicks: the service without its models")
    parser.add_argument("--apart", action="store_true", help="cores of its own for the backend: the first half of them")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    console, seconds, busy = Console(width=110), options.soak or options.seconds, [os.getloadavg()[0]]
    cores = sorted(os.sched_getaffinity(0)) if options.apart else []
    if cores:
        os.sched_setaffinity(0, cores[: len(cores) // 2] or cores)  # the backend inherits it
    with tempfile.TemporaryDirectory() as folder, backend(Path(folder)) as (port, pid):
        if cores:
            os.sched_setaffinity(0, cores[len(cores) // 2 :])
        tally = asyncio.run(load(port, pid, options, seconds))
        busy.append(os.getloadavg()[0])
    good = report(console, tally, options, seconds, busy)
    if options.soak:
        step = max(1, len(tally.memory) // 20)
        console.print("MB by second: " + ", ".join(f"{at:.0f}: {mb:.0f}" for at, mb in tally.memory[::step]))
    if options.json:
        options.json.write_text(json.dumps({"load_average": busy, "seconds": seconds, **vars(tally)}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
