"""Models that only sleep, and ``python -m tests.support.stub_worker``: `int-backend worker` with them.

``STUB_SERVE=PORT`` makes it the HTTP service instead; ``STUB_SCALE`` shortens leases and time limits.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Segmentation, Trace
from ml_backend.demo.processes import Child
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.settings import Settings

IDENTITY = ModelIdentity("stub", "int", "5" * 64)
CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
    '<Label value="Animal"/></PolygonLabels></View>'
)


@dataclass(frozen=True)
class Sleeper:
    """Finds what is brighter than the middle, after so many seconds per image; nothing at all is nothing found."""

    seconds: float = 0.0

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        time.sleep(self.seconds * len(images))
        return [self._one(image, task) for image in images]

    @staticmethod
    def _one(image: Image, task: TaskPrompt) -> Segmentation:
        mask, size, trace = image.mean(axis=2) > 128, image.shape[:2], Trace(task=task.text, strategy="stub")
        if not mask.any():
            return Segmentation(size, task.text, (), 0.0, trace, reason="all is dark")
        instance = Instance.of_mask(mask, task.text, 0.9)
        return Segmentation(size, task.text, (instance,), 0.9, trace, name=task.text)


def png(number: int, *, dark: bool = False) -> bytes:
    """A picture of its own for each number."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[0, :24, 0] = [40 * (number >> bit & 1) for bit in range(24)]
    if not dark:
        image[12:36, 16:48] = 200
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG")
    return out.getvalue()


def tasks(count: int) -> list[dict[str, str]]:
    """Data of so many tasks, the pictures in them; every tenth shows nothing."""
    pictures = [png(number, dark=number % 10 == 9) for number in range(count)]
    return [{"image": f"data:image/png;base64,{base64.b64encode(picture).decode()}"} for picture in pictures]


@contextmanager
def worker(
    name: str, logs: Path, environment: Mapping[str, str], seconds: float, clock: float = 0.0
) -> Iterator[Child]:
    """A process of this module; an image takes ``seconds``, its clock is wrong by ``clock`` seconds."""
    child = Child.start(
        name,
        [sys.executable, "-m", "tests.support.stub_worker"],
        log=logs / f"{name}.log",
        env={
            **os.environ,
            **environment,
            "STUB_SECONDS": str(seconds),
            "STUB_CLOCK": str(clock),
            "OMP_NUM_THREADS": "1",
        },
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        yield child
    finally:
        child.stop()


def _shift_clock(seconds: float) -> None:
    """Let this process's clock be wrong."""
    right = time.time
    time.time = lambda: right() + seconds


def _scale_time(by: float) -> None:
    """Shorten leases, the wait for an answer to a push and what counts as slow by that factor."""
    from ml_backend import context
    from ml_backend.runs import push
    from ml_backend.runs.ledger import Ledger

    assert Ledger.__init__.__kwdefaults__ is not None
    Ledger.__init__.__kwdefaults__["lease_seconds"] *= by
    context._PUSH_TIMEOUT *= by
    push._SLOW *= by


def _serve(port: int, settings: Settings, sleeper: Sleeper) -> None:
    import uvicorn

    from ml_backend.api.app import create_app

    made = create_app(settings, load=lambda: sleeper, identity=IDENTITY)
    uvicorn.run(made, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    from ml_backend.cli.workers.worker import run
    from ml_backend.settings import load_settings

    _shift_clock(float(os.environ.get("STUB_CLOCK", "0")))
    _scale_time(float(os.environ.get("STUB_SCALE", "1")))
    sleeper = Sleeper(float(os.environ["STUB_SECONDS"]))
    if "STUB_SERVE" in os.environ:
        _serve(int(os.environ["STUB_SERVE"]), load_settings({}), sleeper)
    else:
        run(load_settings({}), lambda line: sys.stderr.write(f"{line}\n"), load=lambda: sleeper, identity=IDENTITY)
