"""A backend without models in a process of its own, so that its memory and descriptors can be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.interpreter import tell_steps, tell_waits

START = "__main__"


def memory_of(pid: int, name: str) -> float:
    """A line of a process's status in MB: ``VmRSS``, what it has in memory; ``VmHWM``, the most it ever had."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0) / 1024


@dataclass
class Served:
    """The process, and a client of it."""

    process: subprocess.Popen[str]
    client: httpx.Client
    steps: Path
    waits: Path

    @property
    def longest_step(self) -> float:
        """CPU seconds of the longest step of its event loop since `forget_steps`."""
        return max(map(float, self.steps.read_text().split()), default=0.0)

    @property
    def longest_wait(self) -> float:
        """CPU seconds that it used at most, since `forget_steps`, while a thread waited for its turn."""
        return max(map(float, self.waits.read_text().split()), default=0.0)

    def held(self, call: Callable[[], Any], most: float) -> float:
        """CPU seconds of the longest step or wait while a call went on.

        A busy machine makes that too high, now and then: beyond ``most``, the call is made again, at most twice.
        """
        found = []
        for _ in range(3):
            self.forget_steps()
            call()
            found.append(max(self.longest_step, self.longest_wait))
            if found[-1] < most:
                break
        return min(found)

    @property
    def cpu(self) -> float:
        """CPU seconds that it used since it began, without its children."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_steps(self) -> None:
        """Let `longest_step` and `longest_wait` begin anew."""
        os.truncate(self.steps, 0)
        os.truncate(self.waits, 0)

    @property
    def descriptors(self) -> int:
        """How many files and sockets it and its children hold open."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids())

    def forget_peak(self) -> None:
        """Let `peak` begin anew."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    @property
    def peak(self) -> float:
        """Most resident memory since `forget_peak` in MB, children included."""
        return self._memory("VmHWM")

    @property
    def resident(self) -> float:
        """Resident memory in MB, children included."""
        return self._memory("VmRSS")

    def _memory(self, name: str) -> float:
        return sum(memory_of(pid, name) for pid in self.pids())

    def pids(self) -> list[int]:
        """Of it and its children."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
        return found

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """What the calls give back, all made at once."""
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]


@dataclass
class Pulse:
    """Seconds that answers took while something else went on: of ``/health``, and of a server that does nothing else.

    The second tells what the machine itself, busy with other programs, took at that time.
    """

    seconds: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)

    @property
    def longest(self) -> float:
        """The longest wait for ``/health``, beyond what the machine explains."""
        return max(self.seconds) - 3 * max(self.control)


_NOTHING_ELSE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def pulse(served: Served) -> Iterator[Pulse]:
    """Asks both again and again, each on a connection of its own."""
    found, end = Pulse(), threading.Event()

    def ask(address: str, seconds: list[float]) -> None:
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            while True:
                begun = time.perf_counter()
                assert client.get("/health").status_code == 200
                seconds.append(time.perf_counter() - begun)
                if end.is_set():
                    return
                time.sleep(0.01)

    with (
        subprocess.Popen([sys.executable, "-c", _NOTHING_ELSE], stdout=subprocess.PIPE, text=True) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        try:
            assert other.stdout is not None
            control = f"http://127.0.0.1:{other.stdout.readline().strip()}"
            asking = [
                pool.submit(ask, str(served.client.base_url), found.seconds),
                pool.submit(ask, control, found.control),
            ]
            try:
                yield found
            finally:
                end.set()
                for one in asking:
                    one.result()
        finally:
            other.kill()


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Served]:
    """Start it with these settings; ends with the block."""
    command = [sys.executable, "-m", "tests.support.served", str(folder), json.dumps(settings)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("INT_", "LABEL_STUDIO"))}
    log = (folder / "served.log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port.isdecimal(), (folder / "served.log").read_text()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client:
                yield Served(process, client, folder / "steps", folder / "waits")
        finally:
            process.kill()


def main() -> None:
    from ml_backend.cli.serve import set_up_logging
    from ml_backend.interpreter import share
    from tests.support.harness import backend

    set_up_logging("INFO")
    from tests.support.clickable import Clickable

    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    tell_steps(folder / "steps")
    with backend(folder, strategy=Clickable(), **settings) as running:
        share()
        tell_waits(folder / "waits")
        sys.stdout.write(f"{running.client.base_url.port}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == START:
    main()
