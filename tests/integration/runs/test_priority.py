"""Who goes first at the models: an annotator's request for an image that a run has queued, over a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from tests.support.harness import POLYGONS, Backend, RedThings, backend, data_url, encoded, picture, red
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.waiting import until

QUEUED, BATCH = 40, 4


class Ordered(RedThings):
    """Notes which images it is given, batch by batch: the number of an image is the first row of its red box."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.batches.append([int(red(image).any(axis=1).argmax()) for image in images])
        found = super().segment(images, task)
        time.sleep(0.02)
        return found


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    images = {n: data_url(encoded(picture(60, 80, (n, n, n + 30, n + 18)))) for n in range(1, QUEUED + 1)}
    tasks = {n: {"data": {"image": address}} for n, address in images.items()}
    with label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks)) as running:
        yield running


def begin_run(running: Backend, models: Ordered) -> str:
    """A run that has leased all tasks; its first batch is held up at the models, the others wait for them."""
    models.gate.clear()
    run: str = running.client.post("/runs", json={"project": 1}).json()["run"]["id"]
    assert models.started.wait(30)

    def waiting() -> int:
        found: int = running.client.get("/status").json()["waiting_for_models"]
        return found

    until(lambda: waiting() >= BATCH, "images wait for the models")
    time.sleep(0.3)
    return run


def predict(running: Backend, fake: LabelStudio, task: int) -> Any:
    body = {"tasks": [{"id": task, "data": fake.tasks[task]["data"]}], "project": "1.1", "label_config": POLYGONS}
    return running.client.post("/predict", json=body).json()["results"][0]


@pytest.mark.parametrize("task", [QUEUED // 3, QUEUED], ids=["waits for the models", "not fetched yet"])
def test_an_annotator_overtakes_the_run_that_has_queued_the_image(tmp_path: Path, fake: LabelStudio, task: int) -> None:
    models = Ordered()
    given = {"label_studio_url": fake.url, "label_studio_api_key": TOKEN, "runs_from_predict": False}
    with backend(tmp_path, strategy=models, run_batch=QUEUED, micro_batch=BATCH, deadline=30.0, **given) as running:
        run = begin_run(running, models)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(predict(running, fake, task)))
        asking.start()
        time.sleep(0.5)
        in_flight = len(models.batches)
        models.gate.set()
        asking.join(30)
        assert answers[0]["result"]
        until(lambda: running.client.get(f"/runs/{run}").json()["state"] == "finished", "the run is finished")
        assert task in models.batches[in_flight], models.batches
        assert models.batches[in_flight][0] == task
        assert sorted(n for batch in models.batches for n in batch) == list(range(1, QUEUED + 1))


def test_a_run_does_first_what_an_annotator_looks_at(tmp_path: Path, fake: LabelStudio) -> None:
    """The run is at the task, so that it pushes the prediction and /predict must not answer with another one."""
    models = Ordered()
    given = {"label_studio_url": fake.url, "label_studio_api_key": TOKEN}
    with backend(tmp_path, strategy=models, run_batch=QUEUED, micro_batch=BATCH, deadline=30.0, **given) as running:
        run = begin_run(running, models)
        in_flight = len(models.batches)
        assert predict(running, fake, QUEUED) == []
        time.sleep(0.5)
        models.gate.set()
        until(lambda: running.client.get(f"/runs/{run}").json()["state"] == "finished", "the run is finished")
        assert models.batches[in_flight][0] == QUEUED, models.batches
        assert sorted(n for batch in models.batches for n in batch) == list(range(1, QUEUED + 1))
