"""Random faults, counted: ``python -m benchmarks.faults --rounds 100 --seed 0``.

A real PostgreSQL, a real Redis, two worker processes and a backend process, whose models only sleep, and a stand-in for
Label Studio that keeps what it is sent even if nobody waits for the answer any more, or with ``--label-studio`` the
real one, behind a relay that loses, halves and invents answers. Each round is a run over a new project, of polygons and
of brush masks by turns; while it goes on, three to seven faults hit random parts at random times: processes are killed,
told to stop, and frozen; Redis and PostgreSQL are killed and come back; Label Studio is frozen, away (the real one is
killed and started again), or loses, halves and doubts its answers. Leases and time limits are a twentieth of the real
ones, so that freezes of seconds outlast them.

When the run has ended and everything lives again, each task must have one prediction of the run's version, none is
marked failed, and what people annotated is as it was. A round's faults depend on ``seed`` and its number only (when
they hit within the run depends on the machine); ``--first`` goes on where an earlier call ended.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fault_studios import OTHER, RealStudio, StandIn, Studio, freeze
from ml_backend.cli.patience import outlast
from ml_backend.context import AppContext
from ml_backend.demo.processes import Child, free_port
from ml_backend.runs.queues.base import NullQueue
from ml_backend.runs.types import RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from tests.support.label_studio import Fault as Answered
from tests.support.postgres import Server, find_binaries, postgres_server
from tests.support.redis_server import RedisServer, redis_server
from tests.support.stub_worker import CONFIG, IDENTITY, tasks

ROOT = Path(__file__).resolve().parents[1]
SCALE = 0.05
LONGEST = 300.0


@dataclass
class World:
    """All parts, and how each is started again."""

    folder: Path
    studio: Studio
    postgres: Server
    redis: RedisServer
    environment: dict[str, str]
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str) -> None:
        more = {"STUB_SERVE": str(free_port()), "REDIS_URL": ""} if name == "backend" else {}
        self.children[name] = Child.start(
            name,
            [sys.executable, "-m", "tests.support.stub_worker"],
            log=self.folder / f"{name}-{time.monotonic_ns()}.log",
            env={**os.environ, **self.environment, **more},
            cwd=ROOT,
        )

    def stop(self) -> None:
        for child in self.children.values():
            child.process.send_signal(signal.SIGCONT)
            child.process.kill()
            child.process.wait()


@dataclass(frozen=True)
class Fault:
    """What happens, to whom, how many seconds after the one before, and for how long."""

    kind: str
    part: str
    after: float
    seconds: float


PROCESSES = ("worker-0", "worker-1", "backend")
ANSWERS: dict[str, Answered] = {
    "after": "after",
    "lost": "lost",
    "half": "half",
    "500": 500,
    "429": 429,
    "garbage": "garbage",
}


def plan(rng: random.Random) -> list[Fault]:
    """The faults of a round."""
    kinds = {
        "kill": PROCESSES,
        "stop": PROCESSES,
        "freeze": PROCESSES,
        "freeze label studio": ("",),
        "label studio is away": ("",),
        "answers": tuple(ANSWERS),
        "kill redis": ("",),
        "freeze redis": ("",),
        "kill postgresql": ("",),
    }
    found = []
    for _ in range(rng.randint(3, 7)):
        kind = rng.choices(list(kinds), [2, 1, 3, 3, 2, 3, 1, 1, 1])[0]
        found.append(Fault(kind, rng.choice(kinds[kind]), rng.uniform(0.1, 1.5), rng.uniform(0.3, 8.0)))
    return found


def strike(world: World, fault: Fault) -> None:
    """Let a fault happen and pass; blocks for as long as it lasts."""
    match fault.kind:
        case "kill" | "stop":
            child = world.children[fault.part]
            child.process.send_signal(signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
            child.process.wait(60)
            world.start(fault.part)
        case "freeze":
            freeze(world.children[fault.part].process, fault.seconds)
        case "freeze label studio":
            world.studio.freeze(fault.seconds)
        case "label studio is away":
            world.studio.away(fault.seconds)
        case "answers":
            world.studio.answer(ANSWERS[fault.part])
        case "freeze redis" if world.redis.process is not None:
            freeze(world.redis.process, fault.seconds)
        case "kill redis":
            world.redis.kill()
            time.sleep(fault.seconds / 2)
            world.redis.start()
        case "kill postgresql":
            world.postgres.kill()
            time.sleep(fault.seconds / 2)
            world.postgres.start()


def _noise(count: int, rng: random.Random) -> list[dict[str, str]]:
    """Pictures whose masks are as large as brush masks get: four of them are a megabyte."""
    found = []
    for _ in range(count):
        pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 2, (300, 300, 1), np.uint8) * 255
        out = io.BytesIO()
        Image.fromarray(np.repeat(pixels, 3, 2)).save(out, "PNG")
        found.append({"image": f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"})
    return found


@dataclass
class Outcome:
    """What came of a round."""

    round: int
    kind: str
    faults: list[str]
    seconds: float = 0.0
    tasks: int = 0
    ended: bool = False
    failed: int = 0
    lost: int = 0
    doubled: int = 0
    touched: int = 0


def play(world: World, context: AppContext, seed: int, number: int, count: int) -> Outcome:
    """One round."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - reproducible, no secret
    brush, faults = number % 2 == 1, plan(rng)
    config = CONFIG.replace("PolygonLabels", "BrushLabels") if brush else CONFIG
    data = _noise(count, rng) if brush else tasks(count)
    people, others = set(rng.sample(range(count), count // 8)), set(rng.sample(range(count), count // 4))
    project = world.studio.begin(config, data, people, others)
    outcome = Outcome(number, "brush" if brush else "polygons", [f"{f.kind} {f.part}".strip() for f in faults])
    began = time.monotonic()
    run = context.runs(NullQueue()).start(RunRequest(project=project.id)).run
    if run is None:
        raise RuntimeError("there is a run but after a dry run")
    ledger = context.ledger

    def state() -> RunState:
        return outlast(lambda: ledger.get(run.id), lambda _: None).state

    for fault in faults:
        time.sleep(fault.after)
        strike(world, fault)
    while state() is RunState.ACTIVE and time.monotonic() - began < LONGEST:
        time.sleep(0.2)
    outcome.ended = state() is RunState.FINISHED
    world.studio.settle()  # what was on its way arrives, and the end of the run is looked at
    outcome.seconds = round(time.monotonic() - began, 1)
    records, found = ledger.records(run.id, limit=10_000), world.studio.predictions(project)
    versions = {task: [version for _, version in found.get(task, [])] for task in project.tasks}
    own, wanted = run.spec.model_version, set(project.tasks) - project.people
    outcome.tasks = len(wanted)
    outcome.failed = sum(record.state is TaskState.FAILED for record in records)
    outcome.lost = sum(own not in versions[task] for task in wanted) - outcome.failed
    outcome.doubled = sum(versions[task].count(own) > 1 for task in versions)
    outcome.touched = sum(own in versions[task] for task in project.people)
    outcome.touched += sum((kept, OTHER) not in found.get(task, []) for task, kept in project.others.items())
    return outcome


def main() -> None:
    """Play rounds, a line of JSON for each, and add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label-studio", action="store_true", help="the real one; it takes seconds to come back")
    parser.add_argument("--tasks", type=int, default=32, help="per round")
    parser.add_argument("--out", type=Path, default=Path("faults.jsonl"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing outlives it
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("there is no PostgreSQL server; install Debian's package postgresql")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(postgres_server(binaries, durable=True))
        redis = stack.enter_context(redis_server(folder / "redis"))
        studio: Studio = stack.enter_context(RealStudio.started(folder) if given.label_studio else StandIn.started())
        database = postgres.new_database()
        environment = {
            "REDIS_URL": redis.url,
            "DATABASE_URL": database,
            "LABEL_STUDIO_URL": studio.url,
            "LABEL_STUDIO_API_KEY": studio.token,
            "INT_DATA_DIR": str(folder / "data"),
            "INT_RUN_BATCH": "4",
            "INT_LOG_LEVEL": "WARNING",
            "STUB_SECONDS": "0.1",
            "STUB_SCALE": str(SCALE),
            "OMP_NUM_THREADS": "1",
        }
        world = World(folder, studio, postgres, redis, environment)
        stack.callback(world.stop)
        for name in PROCESSES:
            world.start(name)
        settings = Settings(
            label_studio_url=studio.url,
            label_studio_api_key=studio.token,
            data_dir=folder / "data",
            database_url=database,
        )
        context = AppContext.open(settings, identity=IDENTITY)
        stack.callback(context.store.close)
        _rounds(given, lambda number: play(world, context, given.seed, number, given.tasks))


def _rounds(given: Any, play_one: Callable[[int], Outcome]) -> None:
    sums: Counter[str] = Counter()
    with given.out.open("a") as out:
        for number in range(given.first, given.first + given.rounds):
            outcome = play_one(number)
            out.write(json.dumps({"seed": given.seed, **asdict(outcome)}) + "\n")
            out.flush()
            sums.update(
                {name: int(getattr(outcome, name)) for name in ("tasks", "failed", "lost", "doubled", "touched")}
            )
            sums.update(rounds=1, faults=len(outcome.faults), unended=not outcome.ended)
    sys.stdout.write(f"{dict(sums)}\n")


if __name__ == "__main__":
    main()
