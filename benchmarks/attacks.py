"""What the rest of the service feels of attacks: each one at a time, then all together, while a batch run goes on.

    python -m benchmarks.attacks [--minutes 5] [--each 5] [--only NAME ...] [--json FILE]

The backend is a process of its own with a strategy that finds what is red, connected to a stand-in for Label Studio
whose project has a batch run under way. Attackers are processes, too. ``/health`` is asked 20 times a second; a server
that does nothing is asked at the same moments (*control*): where that one is slow, the machine is busy, not the
backend. *Step* is the longest step of the backend's event loop in milliseconds of CPU, in which other programs do not
count; *wait* is the most CPU that the backend used while a thread of it waited for its turn. In the end every task of
the run must have exactly one prediction.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hostile_bodies import ATTACKS, Target
from benchmarks.load import _EMPTY_SERVER
from tests.support.harness import POLYGONS, data_url, encoded, picture
from tests.support.http_server import Raw, Request, http_server
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.served import Served, served

TARGET = 0.5
"""Seconds that no answer of ``/health`` may take."""

_PAUSE = 0.05
_TASKS = 400
_RUN_SECONDS = 900
_READY_SECONDS = 120


@dataclass
class Seen:
    """Seconds of each answer of ``/health`` and of the control; most memory in MB; CPU seconds of step and wait."""

    name: str
    health: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    failed: int = 0
    peak: float = 0.0
    step: float = 0.0
    wait: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)


def asked(port: int, path: str) -> float:
    """Seconds until an answer, on a connection of its own; a minute if there is none."""
    begun = time.perf_counter()
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        wire.request("GET", path)
        wire.getresponse().read()
    finally:
        wire.close()
    return time.perf_counter() - begun


def attack(name: str, target: Target, seconds: float, answers: Any, ready: Any) -> None:
    """Repeat one attack for so long, in this process, once all are ready; tells the answers' status."""
    os.nice(5)
    bodies = ATTACKS[name](target)
    first = next(bodies)
    ready.wait(_READY_SECONDS)
    until = time.time() + seconds
    with httpx.Client(base_url=f"http://127.0.0.1:{target.port}", timeout=60, trust_env=False) as client:
        for body in itertools.chain([first], bodies):
            while True:
                try:
                    status = str(body(client))
                except httpx.HTTPError as error:
                    status = type(error).__name__
                answers.put((name, status))
                if time.time() >= until:
                    return
                if not body.again:
                    break


def watch(names: list[str], seconds: float, target: Target, control: int, made: Served) -> Seen:
    """Attack with all of these for so long, and look at ``/health`` meanwhile and until they have ended."""
    seen = Seen(" + ".join(names) if len(names) == 1 else f"all {len(names)} together")
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    ready = spawn.Barrier(len(names) + 1)  # they begin by making their bodies
    attackers = [spawn.Process(target=attack, args=(name, target, seconds, answers, ready)) for name in names]
    for attacker in attackers:
        attacker.start()
    ready.wait(_READY_SECONDS)
    made.forget_peak()
    made.forget_steps()
    until = time.time() + seconds
    while time.time() < until or any(attacker.is_alive() for attacker in attackers):
        try:
            seen.health.append(asked(target.port, "/health"))
        except OSError:
            seen.failed += 1
        seen.control.append(asked(control, "/"))
        while not answers.empty():
            _, status = answers.get()
            seen.answers[status] = seen.answers.get(status, 0) + 1
        time.sleep(_PAUSE)
        if time.time() > until + 120:
            for attacker in attackers:
                attacker.terminate()
    for attacker in attackers:
        attacker.join()
    seen.peak, seen.step, seen.wait = made.peak, made.longest_step, made.longest_wait
    return seen


@contextlib.contextmanager
def empty_server() -> Iterator[int]:
    """The port of a server that does nothing."""
    with subprocess.Popen([sys.executable, "-c", _EMPTY_SERVER], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def silent(_: Request) -> Raw:
    """A host that takes connections and says nothing for 20 seconds."""
    time.sleep(20)
    return Raw([])


def tasks() -> dict[int, dict[str, Any]]:
    """Every task has a picture of its own."""
    found = {}
    for number in range(1, _TASKS + 1):
        image = picture(60, 80, (number % 40, 10, number % 40 + 30, 40))
        image[0, :3] = np.frombuffer(number.to_bytes(9, "big"), np.uint8).reshape(3, 3)
        found[number] = {"data": {"image": data_url(encoded(image))}}
    return found


def finish(made: Served, fake: LabelStudio, console: Console) -> dict[str, Any]:
    """Wait for the run's end; what became of its tasks."""
    limit = time.monotonic() + _RUN_SECONDS
    while (run := made.client.get("/runs/1").json())["state"] not in ("finished", "stopped", "cancelled"):
        if time.monotonic() > limit:
            break
        time.sleep(0.5)
    pushed = [len(fake.predictions.get(task, [])) for task in fake.tasks]
    found = {
        "state": run["state"],
        "tasks": len(pushed),
        "with one prediction": pushed.count(1),
        "lost": pushed.count(0),
        "doubled": sum(count > 1 for count in pushed),
    }
    console.print(f"the run meanwhile: {found}")
    return found


def row(seen: Seen) -> list[str]:
    """A line of the table; milliseconds."""

    def share(values: list[float], part: float) -> str:
        return f"{1000 * float(np.quantile(values, part)):.0f}" if values else "-"

    answers = ", ".join(f"{count} x {status}" for status, count in sorted(seen.answers.items()))
    quantiles = [share(values, part) for values in (seen.health, seen.control) for part in (0.5, 0.99, 1.0)]
    return [
        seen.name,
        str(len(seen.health)),
        *quantiles,
        str(seen.failed),
        f"{1000 * seen.step:.0f}",
        f"{1000 * seen.wait:.0f}",
        f"{seen.peak:.0f}",
        answers,
    ]


def main() -> None:
    """Run the benchmark, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of all attacks together; 0 for none")
    parser.add_argument("--each", type=float, default=5.0, help="seconds of each attack alone; 0 for none")
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console(width=200)
    stand_in = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(), project={"id": 1, "label_config": POLYGONS})
    with (
        tempfile.TemporaryDirectory() as folder,
        http_server(silent) as hosts,
        empty_server() as control,
        label_studio(stand_in) as fake,
        served(
            Path(folder),
            label_studio_url=fake.url,
            label_studio_api_key=TOKEN,
            allowed_hosts="127.0.0.0/8",
            image_timeout=20.0,
            run_batch=4,
        ) as made,
    ):
        target = Target(made.client.base_url.port or 0, hosts.port)
        stand_in.on_push = lambda _: time.sleep(0.5)  # so that the run lasts
        assert made.client.post("/runs", json={"project": 1}).is_success  # noqa: S101
        plan = [([name], given.each) for name in given.only] if given.each else []
        looks = []
        for names, seconds in plan + ([(given.only, 60 * given.minutes)] if given.minutes else []):
            looks.append(watch(names, seconds, target, control, made))
            console.print(" | ".join(row(looks[-1])), markup=False)  # what was seen stays if the rest is stopped
        heads = [
            "attack",
            "answers",
            "p50",
            "p99",
            "max",
            "control p50",
            "p99",
            "max",
            "none",
            "step",
            "wait",
            "MB",
            "answered",
        ]
        table = Table(*heads, title=f"/health in ms; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for seen in looks:
            table.add_row(*row(seen))
        console.print(table)
        stand_in.on_push = lambda _: None
        run = finish(made, fake, console)
        if given.json:
            given.json.write_text(json.dumps({"looks": [asdict(seen) for seen in looks], "run": run}))
    slow = [seen.name for seen in looks if seen.failed or max(seen.health) > TARGET]
    console.print(f"slower than {TARGET:g} s during: {', '.join(slow) or 'none'}")
    sys.exit(bool(slow or run["lost"] or run["doubled"]))


if __name__ == "__main__":
    main()
