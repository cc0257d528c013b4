"""What a training costs those who wait meanwhile: clicks, and images per second, with and without a training beside.

In one process, with the bundled miniature models, without HTTP; the four measurements take turns, so that a machine
that others keep busy meanwhile harms all of them alike:

    python -m benchmarks.training_load [--clicks 40] [--seconds 8] [--rounds 3]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image
from int_model.interactive.prompts import ClickPrompt
from int_model.learning.examples import Example, Target
from int_model.nano.conventions import annotated_scene
from ml_backend.learning.training import Training
from ml_backend.runs.training.turns import TrainingEndedError, Turns
from ml_backend.serving.engine import Engine
from ml_backend.serving.model_loading import Models, load_strategy
from ml_backend.serving.queue import ImageQueue, Priority
from ml_backend.settings import Settings
from tests.support.queueing import make_queue, submit

IMAGES = 16


def examples() -> list[Example]:
    """Corrected scenes of the convention with a rim."""
    scenes = [annotated_scene("halo", index) for index in range(IMAGES)]
    return [Example(s.image, tuple(Target(s.task, mask) for mask in s.masks)) for s in scenes]


@contextmanager
def training(engine: Engine, models: Models) -> Iterator[list[int]]:
    """A training beside what is measured, begun again when it comes to its end; the list counts its steps."""
    stop, steps, data = threading.Event(), [0], examples()

    def loop() -> None:
        turns = Turns(engine, stop.is_set)

        def pause() -> None:
            steps[0] += 1
            turns.pause()

        try:
            while not stop.is_set():
                with turns.held():
                    Training(segmenter=models.suite.segmenter, apply=models.under, pause=pause, aside=turns.aside).run(
                        data
                    )
        except TrainingEndedError:
            pass

    thread = threading.Thread(target=loop)
    thread.start()
    while steps[0] < 5:
        time.sleep(0.01)
    try:
        yield steps
    finally:
        stop.set()
        thread.join()


def click_seconds(engine: Engine, image: Image, count: int) -> list[float]:
    """Seconds of clicks on an encoded image, each a moment after the one before."""
    rng, found = np.random.default_rng(0), []
    height, width = image.shape[:2]
    engine.click(lambda clicks: clicks.prewarm("image", image)).result()
    for _ in range(count):
        time.sleep(0.05)
        place = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
        prompt = ClickPrompt(place[None], np.ones(1, dtype=np.int64))
        began = time.perf_counter()
        engine.click(lambda clicks, prompt=prompt: clicks.answer("image", None, prompt)).result()
        found.append(time.perf_counter() - began)
    return found


def images_per_second(queue: ImageQueue, scenes: list[Image], seconds: float) -> float:
    """Throughput with always eight images waiting."""
    task, waiting, done = TaskPrompt("polyp"), [], 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        while len(waiting) < 8:
            waiting.append(submit(queue, scenes[(done + len(waiting)) % len(scenes)], task, Priority.BATCH))
        waiting.pop(0).result()
        done += 1
    took = time.perf_counter() - began
    for future in waiting:
        future.result()
    return done / took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = load_strategy(Settings(profile="nano", strategy="grounded_sam", device="cpu"))
    queue = make_queue()
    engine = Engine(lambda: models, queue)
    engine.start()
    scenes = [annotated_scene("halo", 100 + index).image for index in range(8)]
    clicks: dict[str, list[float]] = {"alone": [], "beside a training": []}
    rates: dict[str, list[float]] = {"alone": [], "beside a training": []}
    steps = 0
    for _ in range(options.rounds):
        clicks["alone"] += click_seconds(engine, scenes[0], options.clicks)
        rates["alone"].append(images_per_second(queue, scenes, options.seconds))
        with training(engine, models) as counted:
            clicks["beside a training"] += click_seconds(engine, scenes[0], options.clicks)
            before = counted[0]
            rates["beside a training"].append(images_per_second(queue, scenes, options.seconds))
            steps += counted[0] - before
    engine.close()
    table = Table("", "a click: median", "95 % below", "images/s by round", title=f"{options.rounds} rounds")
    for name, values in clicks.items():
        median, high = (f"{1000 * np.percentile(values, q):.0f} ms" for q in (50, 95))
        table.add_row(name, median, high, " ".join(f"{rate:.2f}" for rate in rates[name]))
    console = Console()
    console.print(table)
    share = [new / old for new, old in zip(rates["beside a training"], rates["alone"], strict=True)]
    console.print(f"images beside a training: {100 * np.mean(share):.0f} % of alone; {steps} steps trained meanwhile")


if __name__ == "__main__":
    main()
