"""Throughput of 1, 2, 3 worker processes on models that only sleep: ``python -m benchmarks.workers``.

A real Redis, real workers (`int-backend worker` with other models), the ledger in SQLite or in a real PostgreSQL, a
small stand-in for Label Studio or the real one. Since the models sleep, a few cores show what queue and ledger cost.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_backend.context import AppContext
from ml_backend.demo.client import TIMEOUT, DemoClient, sign_in
from ml_backend.demo.processes import free_port
from ml_backend.demo.server import LabelStudioServer, ensure_environment
from ml_backend.runs.queues.redis_queue import RedisQueue
from ml_backend.runs.types import RunRequest, RunState, TaskState
from ml_backend.settings import Settings
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.postgres import find_binaries, postgres_server
from tests.support.redis_server import redis_server
from tests.support.stub_worker import CONFIG, IDENTITY, png, worker

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Place:
    """A Label Studio: its address, a token, and a new project of so many tasks; what each task got."""

    url: str
    token: str
    project: Callable[[int], int]
    predictions: Callable[[int], list[int]]


@contextmanager
def stand_in() -> Iterator[Place]:
    """A stand-in that answers at once."""
    made = LabelStudio(valid={f"Token {TOKEN}"})
    made.project["label_config"] = CONFIG

    def project(count: int) -> int:
        made.predictions.clear()
        made.tasks = {number: {"data": data} for number, data in enumerate(_tasks(count), 1)}
        return int(made.project["id"])

    with label_studio(made) as running:
        yield Place(
            running.url, TOKEN, project, lambda _: [len(running.predictions.get(task, [])) for task in running.tasks]
        )


@contextmanager
def real(folder: Path) -> Iterator[Place]:
    """The real Label Studio of the end-to-end tests, on SQLite."""
    log = folder / "label-studio.log"
    program = ensure_environment(ROOT / ".venv-label-studio", log=log, tell=lambda _: None)
    password = secrets.token_urlsafe(12)
    server = LabelStudioServer.start(
        program, folder=folder / "ls", log=log, port=free_port(), email="b@example.com", password=password
    )
    try:
        token = sign_in(server.url, server.email, password)
        client = DemoClient(server.url, token, timeout=TIMEOUT)

        def project(count: int) -> int:
            made = client.create_project("Workers", CONFIG)
            client.json("POST", f"/api/projects/{made}/import", body=_tasks(count))
            return made

        yield Place(
            server.url,
            token,
            project,
            lambda made: [len(task["predictions"]) for task in client.tasks(made)],
        )
    finally:
        server.child.stop()


def _tasks(count: int) -> list[dict[str, str]]:
    return [{"image": f"data:image/png;base64,{base64.b64encode(png(n)).decode()}"} for n in range(count)]


def measure(
    place: Place, workers: int, images: int, seconds: float, database: str, folder: Path, batch: int
) -> tuple[float, float]:
    """Images per second of so many workers on ``images`` each, and the mean seconds that a model waited per image.

    Timed from the moment when the run is made, with the workers there already, to its end in the ledger.
    """
    count = workers * images
    project = place.project(count)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder / "redis"))
        environment = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": place.url,
            "LABEL_STUDIO_API_KEY": place.token,
            "INT_DATA_DIR": str(folder / "data"),
            "INT_RUN_BATCH": str(batch),
            "INT_LOG_LEVEL": "WARNING",
            "DATABASE_URL": database,
        }
        for number in range(workers):
            stack.enter_context(worker(f"worker-{number}", folder, environment, seconds))
        queue = RedisQueue(redis.url)
        stack.callback(queue.close)
        while queue.workers() < workers:
            time.sleep(0.1)
        settings = Settings(
            label_studio_url=place.url,
            label_studio_api_key=place.token,
            data_dir=folder / "data",
            database_url=database or None,
            redis_url=redis.url,
        )
        context = AppContext.open(settings, identity=IDENTITY)
        stack.callback(context.store.close)
        runs = context.runs(queue)
        began = time.monotonic()
        run_id = str(runs.start(RunRequest(project=project)).run.id)  # type: ignore[union-attr] # there is one but after a dry run
        while runs.ledger.get(run_id).state is not RunState.FINISHED:
            time.sleep(0.1)
        took = time.monotonic() - began
        done, found = runs.ledger.progress(run_id).counts[TaskState.DONE], place.predictions(project)
        if done != count or found != [1] * count:
            raise RuntimeError(f"{done} of {count} tasks are done; predictions per task: {Counter(found)}")
    return count / took, took * workers / count - seconds


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="per worker")
    parser.add_argument("--seconds", type=float, default=0.4, help="that the models sleep per image")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch", type=int, default=16, help="INT_RUN_BATCH")
    parser.add_argument("--postgresql", action="store_true", help="the ledger in a PostgreSQL of its own")
    parser.add_argument("--label-studio", action="store_true", help="a real one instead of a stand-in")
    given = parser.parse_args()
    say = sys.stdout.write
    say("| workers | images/s | of linear | overhead per image | load average |\n| --- | --- | --- | --- | --- |\n")
    with ExitStack() as stack:
        server = None
        if given.postgresql:
            binaries = find_binaries()
            if binaries is None:
                raise RuntimeError("there is no PostgreSQL server; install Debian's package postgresql")
            server = stack.enter_context(postgres_server(binaries, durable=True))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = stack.enter_context(real(scratch) if given.label_studio else stand_in())
        first = 0.0
        for workers in given.workers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = server.new_database() if server else ""
            rate, overhead = measure(place, workers, given.images, given.seconds, database, folder, given.batch)
            first = first or rate / workers
            load = os.getloadavg()[0]
            share = rate / workers / first
            say(f"| {workers} | {rate:.2f} | {share:.2f} | {1000 * overhead:.0f} ms | {load:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
