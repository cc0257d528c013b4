""" "Retrieve predictions" of the real Label Studio when the models are slow: what is late is pushed by a run."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from ml_backend.demo.server import LabelStudioServer
from tests.e2e.conftest import Login
from tests.support.harness import POLYGONS, backend, encoded, picture

pytestmark = pytest.mark.e2e

TASKS = 12


def test_what_is_late_is_pushed_once_by_a_run(label_studio: LabelStudioServer, login: Login, tmp_path: Path) -> None:
    client = login.client
    project = client.create_project("Late", POLYGONS)
    pictures = [encoded(picture(60, 80, (n, n, n + 30, n + 20))) for n in range(TASKS)]
    tasks = [{"image": f"data:image/png;base64,{base64.b64encode(data).decode()}"} for data in pictures]
    client.json("POST", f"/api/projects/{project}/import", body=tasks)
    with backend(
        tmp_path / "data", label_studio_url=label_studio.url, label_studio_api_key=login.token, deadline=1.5
    ) as running:
        address = str(running.client.base_url).rstrip("/")
        assert client.connect(project, address, extra_params='{"prompt": "animal"}')["state"] == "CO"
        running.strategy.gate.clear()
        client.retrieve_predictions(project)
        (run,) = running.client.get("/runs").json()["runs"]
        assert (run["project"], run["prompt"], run["total"]) == (project, "animal", TASKS)
        client.retrieve_predictions(project)  # somebody presses the button again
        (run,) = running.client.get("/runs").json()["runs"]
        assert run["total"] == TASKS
        running.strategy.gate.set()
        limit = time.monotonic() + 120
        while running.client.get(f"/runs/{run['id']}").json()["state"] != "finished":
            assert time.monotonic() < limit, running.client.get(f"/runs/{run['id']}").json()
            client.retrieve_predictions(project)  # and again and again, while the run pushes
        found = client.tasks(project)
        assert len(found) == TASKS
        for task in found:
            versions = [entry["model_version"] for entry in task["predictions"]]
            assert versions == [run["model_version"]], task["id"]
        client.retrieve_predictions(project)
        assert [len(task["predictions"]) for task in client.tasks(project)] == [1] * TASKS
