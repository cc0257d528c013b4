"""What a trial costs annotators meanwhile: clicks and predictions alone, and beside a trial of many images.

Runs ``int-backend serve`` on a free port, in a process of its own, with the bundled miniature models on one thread,
against a stand-in for Label Studio. The two take turns, so that a machine that others keep busy meanwhile harms both
alike; what Label Studio was sent is counted:

    python -m benchmarks.try_beside [--rounds 3] [--clicks 10] [--predictions 3] [--images 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.clicks import CONFIG, click, pictures, task
from benchmarks.load import backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

ALONE, BESIDE = "alone", "beside a trial"


@dataclass(frozen=True)
class Waits:
    """Seconds of clicks and of predictions, alone and beside a trial; ``done``: images of the trials by their ends."""

    clicks: dict[str, list[float]] = field(default_factory=lambda: {ALONE: [], BESIDE: []})
    predictions: dict[str, list[float]] = field(default_factory=lambda: {ALONE: [], BESIDE: []})
    done: list[int] = field(default_factory=list)


def predict(client: httpx.Client, about: dict[str, object]) -> float:
    """Open a task that has no prediction yet; returns seconds."""
    body = {"tasks": [about], "project": "1.1", "label_config": CONFIG, "params": {"context": None}}
    start = time.perf_counter()
    client.post("/predict", json=body).raise_for_status()
    return time.perf_counter() - start


def progress(client: httpx.Client) -> tuple[bool, int]:
    """Whether the trial goes on, and how many of its images are done."""
    told = client.get("/projects/1/try").json()
    return told["state"] == "running", int(told.get("done", 0))


def measure(client: httpx.Client, waits: Waits, options: argparse.Namespace, seed: int) -> None:
    """One round: alone, then beside a trial that is ended when all is measured."""
    fresh = pictures(10_000)[1000 + 100 * seed : 1000 + 100 * seed + 2 * options.predictions]
    tasks = [task(10_000 + 100 * seed + i, image) for i, image in enumerate(fresh)]
    places = np.random.default_rng(seed).uniform(20, 80, (options.clicks, 2))
    clicked = task(9_999, pictures(1)[0])
    click(client, clicked, 50, 50)  # encodes the image

    def both(name: str, own: list[dict[str, object]]) -> None:
        waits.clicks[name] += [click(client, clicked, *place) for place in places]
        waits.predictions[name] += [predict(client, one) for one in own]

    both(ALONE, tasks[: options.predictions])
    body = {"sides": [{"prompt": "camouflaged animal"}], "images": options.images, "seed": seed}
    client.post("/projects/1/try", json=body).raise_for_status()
    while client.get("/status").json()["at_the_models"] == 0:
        time.sleep(0.01)
    both(BESIDE, tasks[options.predictions :])
    running, done = progress(client)
    if not running:
        raise SystemExit("the trial was done before all was measured: give it more --images")
    waits.done.append(done)
    client.post("/projects/1/try", json=body | {"images": 1}).raise_for_status()  # takes the place of the other
    while progress(client)[0]:
        time.sleep(0.05)


def row(table: Table, what: str, waits: dict[str, list[float]]) -> None:
    """Medians and 95th percentiles, and their ratios."""
    alone, beside = waits[ALONE], waits[BESIDE]
    for name, percent in (("median", 50), ("95 % below", 95)):
        first, second = float(np.percentile(alone, percent)), float(np.percentile(beside, percent))
        cells = (f"{1000 * first:.0f} ms", f"{1000 * second:.0f} ms", f"{second / first:.2f}")
        table.add_row(what, name, str(len(alone)), *cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--predictions", type=int, default=3)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of the models' arithmetic")
    options = parser.parse_args()
    fake = LabelStudio(valid={f"Token {TOKEN}"})
    fake.tasks |= {n + 1: {"data": task(n + 1, image)["data"]} for n, image in enumerate(pictures(options.images))}
    fake.project |= {"label_config": CONFIG}
    waits = Waits()
    with tempfile.TemporaryDirectory() as folder, label_studio(fake) as running:
        variables = {
            "LABEL_STUDIO_URL": running.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "INT_DEADLINE": "300",
            "INT_CACHE_ENTRIES": "0",
            "OMP_NUM_THREADS": str(options.threads),
        }
        with (
            backend(Path(folder), **variables) as (port, _),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client,
        ):
            for number in range(options.rounds):
                measure(client, waits, options, number)
        sent = [request for request in running.requests if request.method not in ("GET", "HEAD")]
        written = [request for request in sent if "token" not in request.path]
    title = f"{options.rounds} rounds, nano models, trials of {options.images} images"
    table = Table("", "", "of", ALONE, BESIDE, "ratio", title=title)
    row(table, "a click", waits.clicks)
    row(table, "a prediction", waits.predictions)
    console = Console()
    console.print(table)
    done = f"images of the trials done meanwhile: {waits.done}"
    console.print(f"{done}; requests that changed anything in Label Studio: {len(written)}")


if __name__ == "__main__":
    main()
