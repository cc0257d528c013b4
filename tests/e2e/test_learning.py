"""The whole of learning with a real Label Studio: tasks are corrected, training begins by itself, the next predictions
are better, and a rollback restores the former ones.

``INT_E2E_LEARN=9,8`` makes it smaller: corrected and held-out tasks.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from int_model.nano.conventions import annotated_scene
from ml_backend.cli.main import app
from ml_backend.demo.backend import start_backend
from ml_backend.demo.processes import free_port
from ml_backend.demo.server import LabelStudioServer
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e.conftest import LOGS, Login
from tests.support.corrected import brush_region

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CORRECTED, HELD = map(int, os.environ.get("INT_E2E_LEARN", "24,40").split(","))
LABELS = {"polyp": "Polyp", "skin lesion": "Lesion"}
CONFIG = '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">{}</BrushLabels></View>'
CONFIG = CONFIG.format("".join(f'<Label value="{v}" model_prompt="{k}"/>' for k, v in LABELS.items()))
PATIENCE = 500.0


@dataclass(frozen=True)
class Project:
    """A project whose convention is an outline with a rim, and the backend that learns it."""

    login: Login
    backend: str
    folder: Path
    id: int
    tasks: list[int]

    @property
    def held(self) -> list[int]:
        return self.tasks[CORRECTED:]

    def predictions(self) -> dict[int, dict[str, Any]]:
        """The newest prediction of each held-out task."""
        rows = {row["id"]: row["predictions"] for row in self.login.client.tasks(self.id)}
        return {task: max(rows[task], key=lambda one: int(one["id"])) for task in self.held if rows[task]}

    def retrieve(self) -> dict[int, dict[str, Any]]:
        """Predictions as *Retrieve predictions* gets them, whatever was there before."""
        for action in ("delete_tasks_predictions", "retrieve_tasks_predictions"):
            query = {"id": action, "project": self.id}
            body = {"selectedItems": {"all": False, "included": self.held}}
            self.login.client.request("POST", "/api/dm/actions", params=query, body=body)
        limit = time.monotonic() + PATIENCE
        while len(found := self.predictions()) < len(self.held) and time.monotonic() < limit:
            time.sleep(0.5)
        assert len(found) == len(self.held)
        return found

    def command(self, *arguments: str) -> str:
        env = {"INT_DATA_DIR": str(self.folder), "INT_STRATEGY": "grounded_sam", "COLUMNS": "200"}
        result = CliRunner().invoke(app, [*arguments, "--project", str(self.id)], env=env)
        assert result.exit_code == 0, result.output
        return result.output


@pytest.fixture
def project(label_studio: LabelStudioServer, login: Login, tmp_path: Path) -> Iterator[Project]:
    folder, images = tmp_path / "backend", tmp_path / "images"
    images.mkdir()
    files = []
    for index in range(CORRECTED + HELD):
        files.append(images / f"scene-{index:03d}.png")
        Image.fromarray(annotated_scene("halo", index).image).save(files[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INT_STRATEGY", "grounded_sam")
        patch.setenv("INT_LEARN_FROM", str(CORRECTED))
        patch.setenv("INT_LEARN_STEPS", "12")  # the outline alone is what changed: no arm needs more
        child, backend = start_backend(
            port=free_port(),
            profile="nano",
            label_studio_url=label_studio.url,
            token=login.token,
            folder=folder,
            log=LOGS / "learning.log",
        )
    try:
        number = login.client.create_project("e2e learning", CONFIG)
        tasks = login.client.upload(number, files)
        assert login.client.connect(number, backend)["state"] == "CO"
        yield Project(login, backend, folder, number, [tasks[path.name] for path in files])
    finally:
        child.stop()


def until(found: Callable[[], Any], what: str) -> Any:
    limit = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < limit, what
        time.sleep(0.5)
    return value


def quality(project: Project, predictions: dict[int, dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Union IoU of each held-out task."""
    values = []
    for index, task in enumerate(project.held, start=CORRECTED):
        scene = annotated_scene("halo", index)
        truth = np.any(scene.masks, axis=0)
        own = [decode_region(region) for region in predictions[task]["result"]]
        mask = np.any(own, axis=0) if own else np.zeros_like(truth)
        values.append((mask & truth).sum() / (mask | truth).sum())
    return np.array(values)


def shapes(predictions: dict[int, dict[str, Any]]) -> dict[int, list[str]]:
    """What was drawn, without the regions' random ids."""
    return {
        task: sorted(json.dumps({**region, "id": ""}, sort_keys=True) for region in one["result"])
        for task, one in predictions.items()
    }


def test_corrected_tasks_make_the_next_predictions_better_and_a_rollback_restores_the_former(project: Project) -> None:
    before = project.retrieve()
    (base,) = {one["model_version"] for one in before.values()}
    for index, task in enumerate(project.tasks[:CORRECTED]):
        scene = annotated_scene("halo", index)
        regions = [brush_region(mask, LABELS[scene.task], f"r{number}") for number, mask in enumerate(scene.masks)]
        body = {"result": regions, "lead_time": 14.0}
        project.login.client.json("POST", f"/api/tasks/{task}/annotations/", body=body)

    def trained() -> dict[str, Any] | None:
        address = f"{project.backend}/runs?project={project.id}"
        runs = httpx.get(address, trust_env=False, timeout=60.0).json()["runs"]
        return next((run for run in runs if run["kind"] == "train" and run["state"] in ("finished", "stopped")), None)

    run = until(trained, "no training came to its end")
    assert run["state"] == "finished", run["why"]
    listed = json.loads(project.command("models", "list", "--json"))
    assert [(one["name"], one["accepted"], one["serving"]) for one in listed[:1]] == [("v1", True, True)]
    after = project.retrieve()
    (version,) = {one["model_version"] for one in after.values()}
    assert version != base
    old, new = quality(project, before), quality(project, after)
    gain, error = float((new - old).mean()), float(stats.sem(new - old))
    low, high = gain - 1.96 * error, gain + 1.96 * error
    figures = {"corrected": CORRECTED, "held_out": HELD, "before": float(old.mean()), "after": float(new.mean())}
    (LOGS / "learning.json").write_text(json.dumps({**figures, "gain": gain, "low": low, "high": high}))
    assert (low if HELD >= 40 else gain) > 0
    assert "base serves project" in project.command("models", "rollback")
    again = project.retrieve()
    assert {one["model_version"] for one in again.values()} == {base}
    assert shapes(again) == shapes(before)
