"""Memory over an hour: ``python -m benchmarks.soak --minutes 60``.

A real `int-backend serve` with the nano models on the CPU, and a few requests a second: health, setup, webhooks,
clicks, pages, now and then a prediction of a picture that is new, and connections that never say what they want. A
sample a minute: resident memory, open descriptors, threads, the log's size, answers and failures. The trend of the
second half is that of a straight line through the samples, with the standard error of its slope.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ml_backend.demo.processes import Child, free_port
from tests.support.harness import POLYGONS, data_url, encoded, picture

_CACHE = 32 * 2**20
ROOT = Path(__file__).resolve().parents[1]
CLICKS = (
    '<View><Image name="image" value="$image"/><KeyPointLabels name="kp" toName="image" smart="true">'
    '<Label value="Animal"/></KeyPointLabels><BrushLabels name="b" toName="image"><Label value="Animal"/></BrushLabels>'
    "</View>"
)


class Asker:
    """Makes one request after another, and counts what came of them."""

    def __init__(self, client: httpx.Client, port: int, rng: random.Random) -> None:
        self._client = client
        self._port = port
        self._rng = rng
        self.counts: Counter[str] = Counter()
        self._kinds: list[tuple[Callable[[], None], int]] = [
            (lambda: self._get("/health"), 8),
            (lambda: self._get("/metrics"), 2),
            (lambda: self._get("/status"), 2),
            (lambda: self._get("/versions"), 2),
            (self._setup, 4),
            (self._webhook, 4),
            (self._click, 6),
            (self._predict, 1),
            (self._silent, 2),
        ]

    def ask(self) -> None:
        """One request of some kind."""
        kinds, weights = zip(*self._kinds, strict=True)
        try:
            self._rng.choices(kinds, weights)[0]()
        except (httpx.HTTPError, OSError) as error:
            self.counts[f"failed: {type(error).__name__}"] += 1

    def _counted(self, answer: httpx.Response) -> None:
        self.counts["answered" if answer.status_code < 500 else f"failed: {answer.status_code}"] += 1

    def _get(self, path: str) -> None:
        self._counted(self._client.get(path))

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._counted(self._client.post(path, json=body))

    def _project(self) -> str:
        return f"{self._rng.randint(1, 20)}.1"

    def _setup(self) -> None:
        self._post("/setup", {"project": self._project(), "schema": POLYGONS, "hostname": "http://x"})

    def _webhook(self) -> None:
        annotation = {"id": self._rng.randint(1, 500), "result": [], "created_at": "2026-01-01T00:00:00Z"}
        annotation["updated_at"] = f"2026-01-01T00:00:{self._rng.randint(0, 59):02}Z"
        event = {"action": "ANNOTATION_UPDATED", "project": {"id": 7}, "task": {"id": 1}, "annotation": annotation}
        self._post("/webhook", event)

    def _image(self) -> str:
        box = tuple(sorted(self._rng.sample(range(60), 2)))
        image = picture(box=(box[0], 5, box[1] + 1, 50))
        image[0, :3] = [[self._rng.randint(0, 255) for _ in range(3)] for _ in range(3)]
        return data_url(encoded(image))

    def _predict(self) -> None:
        task = {"id": self._rng.randint(1, 10**9), "data": {"image": self._image()}}
        self._post("/predict", {"tasks": [task], "project": self._project(), "label_config": POLYGONS, "params": {}})

    def _click(self) -> None:
        value = {
            "x": self._rng.uniform(0, 99),
            "y": self._rng.uniform(0, 99),
            "width": 0.3,
            "keypointlabels": ["Animal"],
        }
        region = {"id": str(self._rng.random()), "type": "keypointlabels", "from_name": "kp", "to_name": "image"}
        region |= {"value": value, "original_width": 80, "original_height": 60}  # type: ignore[dict-item]
        task = {"id": self._rng.randint(1, 300), "data": {"image": self._image()}}
        params = {"context": {"result": [region]}}
        self._post("/predict", {"tasks": [task], "project": "1.1", "label_config": CLICKS, "params": params})

    def _silent(self) -> None:
        """A connection without a whole head; the service is to close it."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5) as one:
            one.sendall(b"GET /health HTTP/1.1\r\nX: ")


def sample(child: Child, minute: float, counts: Counter[str]) -> dict[str, Any]:
    """What the kernel says of the process, and the requests so far."""
    root = Path(f"/proc/{child.process.pid}")
    pages = int((root / "statm").read_text().split()[1])
    return {
        "minute": round(minute, 2),
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "descriptors": len(list((root / "fd").iterdir())),
        "threads": len(list((root / "task").iterdir())),
        "log_kb": round(child.log.stat().st_size / 1024, 1),
        "load": round(os.getloadavg()[0], 1),
        **counts,
    }


def trend(samples: list[dict[str, Any]]) -> tuple[float, float]:
    """Megabytes per minute in the second half, and the standard error of that slope. Needs five samples in it."""
    half = samples[len(samples) // 2 :]
    minutes = np.array([one["minute"] for one in half])
    sizes = np.array([one["rss_mb"] for one in half])
    slope, level = np.polyfit(minutes, sizes, 1)
    rest = sizes - (slope * minutes + level)
    spread = ((minutes - minutes.mean()) ** 2).sum()
    return float(slope), float(np.sqrt((rest**2).sum() / (len(half) - 2) / spread))


def main() -> None:
    """Soak, and write a line of JSON per minute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=2.0, help="requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
    given = parser.parse_args()
    port, samples = free_port(), []
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "INT_DATA_DIR": folder, "INT_PROFILE": "nano", "INT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        env.setdefault("INT_EMBEDDING_CACHE_BYTES", str(_CACHE))  # the default would take hours to fill
        command = [sys.executable, "-m", "ml_backend.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        child = Child.serve("serve", command, f"{url}/health", 180, log=Path(folder) / "log", env=env, cwd=ROOT)
        try:
            with httpx.Client(base_url=url, timeout=100, trust_env=False) as client, given.out.open("a") as out:
                asker, began = Asker(client, port, random.Random(given.seed)), time.monotonic()  # noqa: S311 - no secret
                due = 60.0
                while (elapsed := time.monotonic() - began) < 60 * given.minutes:
                    asker.ask()
                    time.sleep(random.expovariate(given.per_second))
                    if elapsed >= due:
                        due += 60.0
                        samples.append(sample(child, elapsed / 60, asker.counts))
                        out.write(json.dumps(samples[-1]) + "\n")
                        out.flush()
        finally:
            child.stop()
    if len(samples) >= 10:
        slope, error = trend(samples)
        sys.stdout.write(f"second half: {slope:+.3f} MB per minute, standard error {error:.3f}\n")


if __name__ == "__main__":
    main()
