"""Models that only sleep, and ``python -m tests.support.stub_worker``: `int-backend worker` with them."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PilImage

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Instance, Segmentation, Trace
from ml_backend.serving.model_loading import ModelIdentity

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


def _shift_clock(seconds: float) -> None:
    """Let this process's clock be wrong."""
    right = time.time
    time.time = lambda: right() + seconds


if __name__ == "__main__":
    from ml_backend.cli.worker import run
    from ml_backend.settings import load_settings

    _shift_clock(float(os.environ.get("STUB_CLOCK", "0")))
    run(
        load_settings({}),
        lambda line: sys.stderr.write(f"{line}\n"),
        load=lambda: Sleeper(float(os.environ["STUB_SECONDS"])),
        identity=IDENTITY,
    )
