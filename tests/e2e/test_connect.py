"""A bare project of the real Label Studio is connected by one command, and its tasks get predictions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml_backend.demo.samples import by_task, load_samples, samples_folder
from tests.e2e.conftest import Login, World
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def connect(world: World, token: str, project: int, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LABEL_STUDIO_URL": world.server.url, "LABEL_STUDIO_API_KEY": token}
    command = [sys.executable, "-m", "ml_backend.cli", "connect", "--project", str(project), *options]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def predicted(world: World, project: int) -> dict[str, Any]:
    """The one prediction of the project's one task; on a busy machine it comes after Label Studio gave up."""
    world.client.retrieve_predictions(project)
    until(lambda: world.client.tasks(project)[0]["predictions"], "the task has a prediction", 120)
    ((prediction,),) = (task["predictions"] for task in world.client.tasks(project))
    found: dict[str, Any] = prediction
    return found


def test_one_command_from_an_empty_project_to_predictions(world: World, login: Login) -> None:
    task, samples = next(iter(by_task(load_samples(samples_folder())).items()))
    project = world.client.create_project("bare", "<View></View>")
    world.client.upload(project, [samples[0].image])
    options = ("--prompt", task, "--control", "brush", "--smart", "--backend", world.backend)

    shown = connect(world, login.token, project, *options, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "+<BrushLabels" in shown.stdout
    assert world.client.connections(project) == []

    made = connect(world, login.token, project, *options, "--yes")
    assert made.returncode == 0, made.stdout + made.stderr
    (row,) = world.client.connections(project)
    assert (row["state"], row["extra_params"], row["is_interactive"]) == ("CO", task, True)
    hooks = world.client.json("GET", "/api/webhooks/", params={"project": project})
    assert [hook["url"] for hook in hooks] == [f"{world.backend}/webhook"]
    assert world.client.project(project)["show_collab_predictions"] is True

    prediction = predicted(world, project)
    assert prediction["model_version"] == row["model_version"]
    assert {region["type"] for region in prediction["result"]} == {"brushlabels"}

    again = connect(world, login.token, project, *options, "--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "has all that it needs" in again.stdout

    other = connect(world, login.token, project, "--prompt", "skin lesion", "--yes")
    assert other.returncode == 0, other.stdout + other.stderr
    (row,) = world.client.connections(project)
    assert row["extra_params"] == "skin lesion"


def test_label_studio_keeps_vectors_and_ellipses(world: World, login: Login) -> None:
    task, samples = next(iter(by_task(load_samples(samples_folder())).items()))
    for tag in ("VectorLabels", "EllipseLabels"):
        control = f'<{tag} name="m" toName="image"><Label value="A"/></{tag}>'
        config = f'<View><Image name="image" value="$image"/>{control}</View>'
        project = world.client.create_project(tag, config)
        world.client.upload(project, [samples[0].image])
        made = connect(world, login.token, project, "--prompt", task, "--backend", world.backend, "--yes")
        assert made.returncode == 0, made.stdout + made.stderr
        assert {region["type"] for region in predicted(world, project)["result"]} == {tag.lower()}
