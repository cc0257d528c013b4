"""A project whose interface is React code of its own: Label Studio takes it, and everything here says why it cannot be
annotated.
"""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import pytest

from ml_backend.demo.samples import load_samples, samples_folder
from tests.e2e.conftest import ROOT, Login, World
from tests.e2e.test_connect import connect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = (
    '<View><ReactCode name="own" toName="own" data="$image" outputs=\'{"type": "object", "properties": {}}\'>'
    "<![CDATA[({ React, addRegion }) => React.createElement('div', null, 'draw here')]]></ReactCode></View>"
)
PAGE = {"Accept": "text/html"}


def test_react_code_is_answered_with_a_sentence(world: World, login: Login) -> None:
    sample = load_samples(samples_folder())[0]
    project = world.client.create_project("React", CONFIG)
    assert "ReactCode" in world.client.project(project)["label_config"]  # Label Studio keeps it as it is
    (task,) = world.client.upload(project, [sample.image]).values()

    row = world.client.connect(project, world.backend, extra_params=sample.task)  # asks /health and /setup
    assert row["state"] == "CO", row
    world.client.retrieve_predictions(project)  # asks /predict
    assert world.client.predictions(task) == []
    with httpx.Client(base_url=world.backend, trust_env=False, timeout=60) as backend:
        assert "<ReactCode name='own'>" in "\n".join(backend.get("/status").json()["problems"])
        shown = backend.get(f"/projects/{project}", headers=PAGE)
        assert (shown.status_code, "&lt;ReactCode" in shown.text) == (200, True)
        listed = backend.get("/projects", headers=PAGE)
        assert (listed.status_code, "cannot be annotated" in listed.text) == (200, True)
        for path, body in ((f"/projects/{project}/connect", {"prompt": "polyp"}), ("/runs", {"project": project})):
            refused = backend.post(path, json=body)
            assert (400 <= refused.status_code < 500, "ReactCode" in refused.json()["error"]) == (True, True), path

    refused_command = connect(world, login.token, project, "--prompt", "polyp", "--yes")
    assert refused_command.returncode != 0
    assert "ReactCode" in refused_command.stderr + refused_command.stdout
    assert "Traceback" not in refused_command.stderr
    environment = os.environ | {"LABEL_STUDIO_URL": world.server.url, "LABEL_STUDIO_API_KEY": login.token}
    command = [sys.executable, "-m", "ml_backend.cli", "doctor", "--project", str(project)]
    doctor = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert "ReactCode" in doctor.stdout, doctor.stdout + doctor.stderr
    assert "Traceback" not in doctor.stdout + doctor.stderr
    assert world.client.project(project)["label_config"] == CONFIG
