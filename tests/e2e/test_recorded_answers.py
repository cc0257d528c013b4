"""The recorded answers, which the stand-in of the other tests is held against, are those of the real Label Studio."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Login, World
from tests.support.conversation import RECORDED, converse, differences, record
from tests.support.harness import POLYGONS, encoded, picture

pytestmark = pytest.mark.e2e


def test_label_studio_still_answers_as_recorded(world: World, login: Login, tmp_path: Path) -> None:
    image = tmp_path / "red.png"
    image.write_bytes(encoded(picture()))
    project = login.client.create_project("recorded", POLYGONS)
    (task,) = login.client.upload(project, [image]).values()
    login.client.connect(project, world.backend, extra_params="camouflaged animal")
    said = converse(world.server.url, login.token, project, task)
    if os.environ.get("RECORD"):
        record(said, world.server.url)
    known = {path.stem: json.loads(path.read_text()) for path in RECORDED.glob("*.json")}
    assert known.keys() == said.keys()
    found = {name: differences(known[name], answer) for name, answer in said.items()}
    assert {name: texts for name, texts in found.items() if texts} == {}
