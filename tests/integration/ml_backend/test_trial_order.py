"""Annotators go before a trial: by the order in which the models see images, not by time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from int_model.core.task_prompt import TaskPrompt
from int_model.core.types import Image, Segmentation
from ml_backend.trial import trial
from tests.integration.runs.test_web import connected, tasks
from tests.support.clickable import Clickable
from tests.support.harness import POLYGONS, data_url, encoded, picture
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.waiting import until

IMAGES = 20
HEIGHT = 77  # of the annotator's picture: no image of the trial has it


class Noting(Clickable):
    """Notes the height of every image that the models see, and holds each call up until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.calls = 0

    def segment(self, images: Sequence[Image], task: TaskPrompt) -> list[Segmentation]:
        self.calls += 1
        found = super().segment(images, task)
        self.seen += [image.shape[0] for image in images]
        return found


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(IMAGES + 4))
    del made.tasks[2], made.tasks[3]  # without an object, and broken
    made.project |= {"label_config": POLYGONS}
    with label_studio(made) as running:
        yield running


def test_a_trial_holds_its_next_image_while_predictions_are_asked_for(
    fake: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "QUIET_SECONDS", 1000.0)
    monkeypatch.setattr(trial, "MOST_HELD_SECONDS", 1000.0)
    models = Noting()
    with connected(tmp_path, fake, strategy=models) as running:
        own = [{"image": data_url(encoded(picture(HEIGHT, 70 + i)))} for i in range(4)]
        running.predict(own[0])
        assert running.client.post("/projects/1/try", json={"sides": [{}], "images": IMAGES}).status_code == 202
        for data in own[1:]:
            running.predict(data)
        assert models.seen == [HEIGHT] * 4
        monkeypatch.setattr(trial, "QUIET_SECONDS", 0.0)
        until(lambda: running.client.get("/projects/1/try").json()["state"] == "done", "the trial is done")
        assert len(models.seen) == 4 + IMAGES


def test_a_prediction_and_a_click_go_before_a_trial_of_twenty_images(fake: LabelStudio, tmp_path: Path) -> None:
    models = Noting()
    with connected(tmp_path, fake, strategy=models) as running:
        models.gate.clear()
        begun = running.client.post("/projects/1/try", json={"sides": [{}, {"prompt": "frog"}], "images": IMAGES})
        assert begun.status_code == 202
        until(models.started.is_set, "the trial's first image is at the models")
        own = {"image": data_url(encoded(picture(HEIGHT, 80)))}

        value = {"x": 40, "y": 40, "width": 0.3, "keypointlabels": ["Animal"]}
        prompt = {"type": "keypointlabels", "from_name": "kp", "to_name": "image", "is_positive": True, "value": value}
        tool = '<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Animal"/></KeyPointLabels></View>'
        (clicked,) = running.predict(own, config=POLYGONS.replace("</View>", tool), context={"result": [prompt]})
        assert clicked["result"]  # while the models are held up
        assert models.seen == []

        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(running.predict(own)))
        asking.start()
        until(lambda: running.client.get("/status").json()["waiting_for_models"] > 0, "the annotator's image is ready")
        models.gate.set()
        asking.join(30)
        ((answer,),) = answers
        assert answer["result"]
        before = models.seen.index(HEIGHT)
        assert before <= 1, f"{before} of the trial's images went first"
        until(lambda: running.client.get("/projects/1/try").json()["state"] == "done", "the trial is done")
        assert len(models.seen) == 2 * IMAGES + 1
        assert fake.pushed() == []
