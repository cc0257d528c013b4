"""How long an annotator waits for a mask: the first click on an image, further ones, and clicks while a batch runs.

Runs the real HTTP service on a free port, with the bundled miniature models where they are there, else with fakes:

    python -m benchmarks.clicks [--clicks 20] [--images 8]
"""

from __future__ import annotations

import argparse
import base64
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image as PilImage
from rich.console import Console
from rich.table import Table

import int_model
from int_model.core.types import Image
from int_model.interactive.prompts import ClickPrompt
from ml_backend.api.app import create_app
from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.serving.model_loading import ModelIdentity, Models, load_strategy
from ml_backend.settings import Settings

CHECKPOINTS = Path(int_model.__file__).parent / "nano" / "checkpoints"
CONFIG = (
    '<View><Image name="image" value="$image"/><KeyPointLabels name="point" toName="image" smart="true">'
    '<Label value="Thing"/></KeyPointLabels><BrushLabels name="mask" toName="image"><Label value="Thing"/>'
    "</BrushLabels></View>"
)


def pictures(count: int) -> list[Image]:
    """The bundled scenes, and shifted copies of them as far as there are too few."""
    scenes = [np.asarray(PilImage.open(s.image).convert("RGB")) for s in load_samples(samples_folder()) if not s.empty]
    return [np.roll(scenes[i % len(scenes)], 3 * (i // len(scenes)), axis=1) for i in range(count)]


def models(settings: Settings) -> tuple[Models, str]:
    """The models to measure, and what they are."""
    if (CHECKPOINTS / "segmenter").is_dir() and (CHECKPOINTS / "vlm").is_dir():
        return load_strategy(settings), "nano"
    from tests.support.fakes import fake_suite

    return Models.of(fake_suite(), settings.models, settings.embedding_cache_bytes), "fakes"


@contextmanager
def served(loaded: Models, settings: Settings) -> Iterator[httpx.Client]:
    """A client of a running backend."""
    app = create_app(settings, load=lambda: loaded, identity=ModelIdentity("benchmark", "int", "0" * 64))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the backend did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)


def task(number: int, image: Image) -> dict[str, Any]:
    """A Label Studio task that carries its image."""
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG")
    return {"id": number, "data": {"image": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}}


def click(client: httpx.Client, about: dict[str, Any], x: float, y: float) -> float:
    """Click at a place in percent; returns seconds."""
    prompt = {"type": "keypointlabels", "from_name": "point", "to_name": "image", "is_positive": True,
              "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": ["Thing"]}}  # fmt: skip
    body = {"tasks": [about], "project": "1.1", "label_config": CONFIG, "params": {"context": {"result": [prompt]}}}
    start = time.perf_counter()
    answer = client.post("/predict", json=body)
    seconds = time.perf_counter() - start
    answer.raise_for_status()
    return seconds


def decode_alone(loaded: Models, image: Image, clicks: int) -> list[float]:
    """The segmenter without any service: seconds per decoding of one point."""
    loaded.clicks.prewarm("alone", image)
    prompt = ClickPrompt(np.array([[image.shape[1] / 2, image.shape[0] / 2]]), np.ones(1, dtype=np.int64))
    return [_timed(lambda: loaded.clicks.answer("alone", None, prompt)) for _ in range(clicks)]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), deadline=300.0, profile="nano", cache_entries=0)
        loaded, name = models(settings)
        images = pictures(options.images)
        tasks = [task(i + 1, image) for i, image in enumerate(images)]
        rows: list[tuple[str, list[float]]] = [
            ("one mask decode, no service", decode_alone(loaded, images[0], options.clicks))
        ]
        with served(loaded, settings) as client:
            rows.append(("first click on an image", [click(client, entry, 50, 50) for entry in tasks]))
            places = rng.uniform(20, 80, (options.clicks, 2))
            rows.append(("further clicks", [click(client, tasks[0], *place) for place in places]))
            body = {"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {"context": None}}
            batch = threading.Thread(target=lambda: client.post("/predict", json=body))
            started = time.perf_counter()
            batch.start()
            while client.get("/status").json()["at_the_models"] == 0 and batch.is_alive():
                time.sleep(0.01)
            during = []
            for x, y in places:
                if not batch.is_alive():
                    break
                during.append(click(client, tasks[0], x, y))
            rows.append(("clicks while a batch runs", during))
            batch.join()
            rows.append((f"the batch: {len(tasks)} images", [time.perf_counter() - started]))
    console = Console()
    table = Table("what", "times", "median ms", "slowest ms", title=f"How long an annotator waits, {name} models")
    for what, seconds in rows:
        if seconds:
            middle, most = 1000 * statistics.median(seconds), 1000 * max(seconds)
            table.add_row(what, str(len(seconds)), f"{middle:.1f}", f"{most:.1f}")
        else:
            table.add_row(what, "0", "-", "-")
    console.print(table)


if __name__ == "__main__":
    main()
