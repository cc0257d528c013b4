"""Throughput of 1, 2, 3 worker processes on models that only sleep: ``python -m benchmarks.workers``.

A real Redis, real workers (`int-backend worker` with other models), the ledger in SQLite or in a real PostgreSQL, and
a small stand-in for Label Studio. Since the models sleep, a few cores show what the queue and the ledger cost.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ml_backend.demo.processes import Child
from ml_backend.runs.redis_queue import RedisQueue
from ml_backend.runs.types import RunState, TaskState
from ml_backend.runs.workshop import Workshop
from ml_backend.settings import Settings
from tests.integration.ledger.postgres import find_binaries, postgres_server
from tests.integration.runs.redis_server import redis_server
from tests.integration.runs.small_label_studio import TOKEN, SmallLabelStudio, small_label_studio
from tests.integration.runs.stub import CONFIG, IDENTITY, png

ROOT = Path(__file__).resolve().parents[1]


def measure(workers: int, images: int, seconds: float, database: str, folder: Path, batch: int) -> tuple[float, float]:
    """Images per second of so many workers on ``images`` each, and the mean seconds that a model waited per image.

    Timed from the moment when the run is made, with the workers there already, to its end in the ledger.
    """
    count = workers * images
    address = "data:image/png;base64,{}"
    tasks = {
        number: {"image": address.format(base64.b64encode(png(number)).decode())} for number in range(1, count + 1)
    }
    with ExitStack() as stack:
        label_studio = stack.enter_context(small_label_studio(SmallLabelStudio(CONFIG, tasks)))
        redis = stack.enter_context(redis_server(folder / "redis"))
        environment = {
            "REDIS_URL": redis.url,
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "INT_DATA_DIR": str(folder / "data"),
            "INT_RUN_BATCH": str(batch),
            "INT_LOG_LEVEL": "WARNING",
            "DATABASE_URL": database,
            "STUB_SECONDS": str(seconds),
            "OMP_NUM_THREADS": "1",
        }
        for number in range(workers):
            child = Child.start(
                f"worker {number}",
                [sys.executable, "-m", "tests.integration.runs.stub"],
                log=folder / f"worker-{number}.log",
                env=os.environ | environment,
                cwd=ROOT,
            )
            stack.callback(child.stop)
        queue = RedisQueue(redis.url)
        stack.callback(queue.close)
        while queue.workers() < workers:
            time.sleep(0.1)
        settings = Settings(
            label_studio_url=label_studio.url,
            label_studio_api_key=TOKEN,
            data_dir=folder / "data",
            database_url=database or None,
            redis_url=redis.url,
        )
        shop = Workshop.open(settings, identity=IDENTITY)
        stack.callback(shop.store.close)
        runs = shop.runs(queue)
        began = time.monotonic()
        run_id = str(runs.start(1).run.id)  # type: ignore[union-attr] # there is one but after a dry run
        while runs.get(run_id).state is not RunState.FINISHED:
            time.sleep(0.1)
        took = time.monotonic() - began
        done, once = runs.progress(run_id).counts[TaskState.DONE], list(label_studio.predictions.values())
        if done != count or len(once) != count or any(len(found) != 1 for found in once):
            raise RuntimeError(f"{done} of {count} tasks are done, {len(once)} have predictions")
    return count / took, took * workers / count - seconds


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="per worker")
    parser.add_argument("--seconds", type=float, default=0.4, help="that the models sleep per image")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch", type=int, default=16, help="INT_RUN_BATCH")
    parser.add_argument("--postgresql", action="store_true", help="the ledger in a PostgreSQL of its own")
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
        first = 0.0
        for workers in given.workers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = server.new_database() if server else ""
            rate, overhead = measure(workers, given.images, given.seconds, database, folder, given.batch)
            first = first or rate / workers
            load = os.getloadavg()[0]
            share = rate / workers / first
            say(f"| {workers} | {rate:.2f} | {share:.2f} | {1000 * overhead:.0f} ms | {load:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
