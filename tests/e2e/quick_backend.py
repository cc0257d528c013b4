"""``int-backend`` with a strategy that needs no models: finds what is red, and notes every image that it was given.

Run as ``python -m tests.e2e.quick_backend annotate ...``. ``INT_TEST_SEEN`` names a file that gets a line per image:
process id and checksum of the pixels. ``INT_TEST_SECONDS`` is how long an image takes.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from ml_backend import context
from ml_backend.cli.main import app
from ml_backend.serving.model_loading import ModelIdentity
from ml_backend.settings import Settings
from tests.support.harness import RedThings


class Noting(RedThings):
    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        for image in images:
            time.sleep(float(os.environ.get("INT_TEST_SECONDS", "0.02")))
            with Path(os.environ["INT_TEST_SEEN"]).open("a") as sink:
                sink.write(f"{os.getpid()} {zlib.crc32(image.tobytes())}\n")
        return super().segment(images, task)


def load(settings: Settings, read: object = None) -> Noting:
    del settings, read
    return Noting()


def identity(settings: Settings) -> ModelIdentity:
    return ModelIdentity("quick", settings.strategy, os.environ.get("INT_TEST_FINGERPRINT", "0" * 64))


if __name__ == "__main__":
    context.load_strategy = load
    context.identify = identity
    app()
