"""Clicks as Label Studio's page sends them, through a real Label Studio to a real backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend.demo.projects import plan_projects
from ml_backend.demo.samples import by_task, load_samples, samples_folder
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e import pictures
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Clicking:
    world: World
    backend: int
    tasks: dict[str, int]
    label: str
    truth: NDArray[np.bool_]

    def ask(self, name: str, context: dict[str, Any]) -> dict[str, Any]:
        """Label Studio's answer to its page."""
        body = {"task": self.tasks[name], "context": context}
        answer = self.world.client.json("POST", f"/api/ml/{self.backend}/interactive-annotating", body=body)
        assert "errors" not in answer, answer
        return dict(answer["data"])

    def region(self, kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
        height, width = self.truth.shape
        return {"original_width": width, "original_height": height, "image_rotation": 0, "id": "prompt1",
                "value": value | {kind: [self.label], "labels": [self.label]}, "is_positive": True,
                "from_name": name, "to_name": "image", "type": kind, "origin": "manual"}  # fmt: skip

    def box(self) -> dict[str, Any]:
        rows, columns = np.flatnonzero(self.truth.any(axis=1)), np.flatnonzero(self.truth.any(axis=0))
        (height, width), y, x = self.truth.shape, int(rows[0]), int(columns[0])
        value = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * (columns[-1] + 1 - x) / width,
                 "height": 100 * (rows[-1] + 1 - y) / height, "rotation": 0}  # fmt: skip
        return self.region("rectanglelabels", "box", value)


@pytest.fixture(scope="module")
def clicking(world: World, tmp_path_factory: pytest.TempPathFactory) -> Clicking:
    """One scene with one object, as a PNG and as a photo that lies on its side, in a project as the demo makes it."""
    folder = tmp_path_factory.mktemp("clicks")
    sample = next(s for s in load_samples(samples_folder()) if s.instances == 1)
    scene = np.asarray(Image.open(sample.image).convert("RGB"))
    plain = folder / "plain.png"
    Image.fromarray(scene).save(plain)
    photo: Path = pictures.phone_photo(scene, folder / "phone.jpg")
    (plan,) = plan_projects(by_task([sample]))
    project = world.client.create_project("e2e clicks", plan.label_config)
    tasks = world.client.upload(project, [plain, photo])
    row = world.client.connect(project, world.backend, extra_params=plan.extra_params)
    assert row["state"] == "CO", row
    truth = np.asarray(Image.open(sample.mask).convert("L")) > 127
    return Clicking(world, int(row["id"]), tasks, plan.label, truth)


def overlap(answer: dict[str, Any], truth: NDArray[np.bool_]) -> float:
    mask = np.zeros_like(truth)
    for item in answer["result"]:
        assert item["from_name"] == "mask"
        mask |= decode_region(item)
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("name", ["plain.png", "phone.jpg"])
def test_a_box_gives_the_mask_of_what_is_in_it(clicking: Clicking, name: str) -> None:
    answer = clicking.ask(name, {"result": [clicking.box()]})
    assert overlap(answer, clicking.truth) > 0.5
    assert 0.0 < answer["score"] <= 1.0


def test_a_point_gives_a_mask_with_the_point_in_it(clicking: Clicking) -> None:
    rows, columns = np.nonzero(clicking.truth)
    middle = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    y, x = int(rows[middle]), int(columns[middle])
    height, width = clicking.truth.shape
    value = {"x": 100 * (x + 0.5) / width, "y": 100 * (y + 0.5) / height, "width": 0.3}
    answer = clicking.ask("plain.png", {"result": [clicking.region("keypointlabels", "click", value)]})
    assert any(decode_region(item)[y, x] for item in answer["result"])


def test_no_prompt_is_an_answer_that_the_page_can_read(clicking: Clicking) -> None:
    answer = clicking.ask("plain.png", {"result": []})
    assert (answer["result"], answer["score"]) == ([], 0)


def test_the_page_may_ask_what_there_is(clicking: Clicking) -> None:
    answer = clicking.ask("plain.png", {"event": "capabilities"})
    assert answer["result"][0]["value"]["prompts"] == ["point", "box"]
