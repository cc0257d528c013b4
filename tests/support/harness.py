"""A backend over a real socket, and a strategy without models."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Segmentation, Trace
from ml_backend.api.app import create_app
from ml_backend.fetching.addresses import Resolver, resolve
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.settings import Settings

JSON = {"Content-Type": "application/json"}
"""Headers of a body that is sent as it is."""

IDENTITY = ModelIdentity("fake", "int", "0" * 64)
POLYGONS = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
    '<Label value="Animal"/></PolygonLabels></View>'
)


class RedThings:
    """Finds what is red; prompts in ``answers`` find another colour channel, ``fails`` raises, ``gate`` holds it up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.names: dict[str, str] = {}
        self.channel: dict[str, int] = {}
        self.scores: dict[str, float] = {}

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.started.set()
        assert self.gate.wait(30)
        self.asked.append((task.text, len(images)))
        if task.text == "explode" or any((image == (1, 2, 3)).all() for image in images):
            raise RuntimeError("this image cannot be processed")
        return [self._one(image, task) for image in images]

    def _one(self, image: Image, task: TaskPrompt) -> Segmentation:
        channel = self.channel.get(task.text, 0)
        others = [c for c in range(3) if c != channel]
        mask = (image[..., channel] > 150) & (image[..., others].max(axis=2) < 100)
        size, trace = image.shape[:2], Trace(task=task.text, strategy="fake")
        if not mask.any():
            return Segmentation(size, task.text, (), 0.0, trace, reason="nothing of that colour")
        score = self.scores.get(task.text, 0.9)
        instance = Instance.of_mask(mask, self.names.get(task.text, task.text), score)
        return Segmentation(size, task.text, (instance,), score, trace, name=instance.label)


def picture(height: int = 60, width: int = 80, box: tuple[int, int, int, int] = (20, 10, 50, 40)) -> np.ndarray:
    """Grey with a red box ``x1, y1, x2, y2``."""
    image = np.full((height, width, 3), 128, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (220, 20, 20)
    return image


def encoded(image: np.ndarray, fmt: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, fmt, **options)
    return out.getvalue()


def data_url(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


GOOD = {"image": data_url(encoded(picture()))}
"""Data of a task whose image shows one red box."""

CONFIGS = {
    kind.lower(): POLYGONS.replace("PolygonLabels", kind)
    for kind in ("PolygonLabels", "BrushLabels", "BitmaskLabels", "RectangleLabels")
}


def red(image: np.ndarray) -> np.ndarray:
    """The mask of what is red."""
    return (image[..., 0] > 150) & (image[..., 1] < 100)


def overlap(region: dict[str, Any], mask: np.ndarray) -> float:
    """IoU of a region with a mask."""
    got = decode_region(region)
    return float((got & mask).sum() / (got | mask).sum())


def fake_jwt(**claims: Any) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


@dataclass
class Backend:
    """A running backend."""

    client: httpx.Client
    strategy: RedThings
    app: Any

    def predict(self, *data: Any, config: str = POLYGONS, project: Any = "1.1", **params: Any) -> list[Any]:
        tasks = [{"id": i + 1, "data": d} if isinstance(d, dict) else d for i, d in enumerate(data)]
        body = {"tasks": tasks, "project": project, "label_config": config, "params": {"context": None, **params}}
        response = self.client.post("/predict", json=body)
        assert response.status_code == 200, response.text
        results: list[Any] = response.json()["results"]
        return results

    def setup(self, extra_params: Any = None, config: str = POLYGONS, project: Any = "1.1") -> str:
        body = {"project": project, "schema": config, "hostname": "http://x", "access_token": "t"}
        response = self.client.post("/setup", json=body | {"extra_params": extra_params})
        assert response.status_code == 200, response.text
        version: str = response.json()["model_version"]
        return version

    def problems(self) -> str:
        return "\n".join(self.client.get("/status").json()["problems"])


@contextmanager
def backend(
    folder: Path,
    load: Callable[[], Any] | None = None,
    *,
    strategy: RedThings | None = None,
    identity: ModelIdentity = IDENTITY,
    resolver: Resolver = resolve,
    **settings: Any,
) -> Iterator[Backend]:
    """A backend on a free port, with a fake strategy."""
    chosen = strategy or RedThings()
    settings = {"data_dir": folder, "deadline": 20.0, **settings}
    app = create_app(Settings(**settings), load=load or (lambda: chosen), identity=identity, resolver=resolver)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    limit = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < limit
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=40, trust_env=False) as client:
            yield Backend(client, chosen, app)
    finally:
        chosen.gate.set()
        server.should_exit = True
        thread.join(30)
