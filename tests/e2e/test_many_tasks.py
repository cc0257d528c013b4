"""Retrieve predictions on 40 tasks, three of them broken, with each kind of token: 37 predictions, three reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageEnhance

from ml_backend.demo.backend import start_backend
from ml_backend.demo.processes import free_port
from ml_backend.demo.samples import load_samples, samples_folder
from ml_backend.labelstudio.client import jwt_claims
from tests.e2e import pictures
from tests.e2e.conftest import LOGS, World
from tests.e2e.test_annotation import annotate
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

# One call per model and image; the protocol is the same with INT, which takes 40 times as long.
CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="mask" toName="image" model_strategy="grounded_sam">
    <Label value="Thing" model_prompt="camouflaged animal"/>
  </PolygonLabels>
</View>
"""
TASKS = 40
BROKEN = {
    "truncated.png": "the image is truncated or damaged",
    "page.jpg": "not an image",
    "missing.png": "was its file deleted?",
}


@dataclass(frozen=True)
class Outcome:
    tasks: dict[str, int]
    predictions: dict[str, list[dict[str, Any]]]
    status: dict[str, Any]
    metrics: str

    def reason(self, name: str) -> str:
        """The last problem that the backend tells about a task."""
        told = [text for text in self.status["problems"] if text.startswith(f"task {self.tasks[name]}:")]
        return told[-1] if told else ""


def make_files(folder: Path) -> list[Path]:
    """37 different pictures with the broken ones among them."""
    good = []
    for index, sample in enumerate(load_samples(samples_folder()) * 4):
        with Image.open(sample.image) as picture:
            path = folder / f"{index:02}.png"
            ImageEnhance.Brightness(picture.convert("RGB")).enhance(1 - 0.01 * (index // 12)).save(path)
        good.append(path)
    good = good[: TASKS - len(BROKEN)]
    page = folder / "page.jpg"
    page.write_text("<!DOCTYPE html><html><body>Please log in</body></html>")
    missing = folder / "missing.png"
    missing.write_bytes(good[0].read_bytes())
    truncated = pictures.truncated(good[1], folder / "truncated.png")
    return [*good[:5], truncated, *good[5:20], page, *good[20:], missing]


def run(world: World, backend: str, folder: Path) -> Outcome:
    """Upload, let one file vanish, connect, retrieve."""
    project = world.client.create_project("e2e forty", CONFIG)
    tasks = world.client.upload(project, make_files(folder))
    uploads = {int(task["id"]): task["data"]["image"] for task in world.client.tasks(project)}
    (world.media / uploads[tasks["missing.png"]].removeprefix("/data/")).unlink()
    row = world.client.connect(project, backend)
    assert row["state"] == "CO", row
    found = annotate(world, project, {tasks[name] for name in tasks if name not in BROKEN})
    status = httpx.get(f"{backend}/status", trust_env=False, timeout=60.0).json()
    metrics = httpx.get(f"{backend}/metrics", trust_env=False, timeout=60.0).text
    return Outcome(tasks, {name: found[task] for name, task in tasks.items()}, status, metrics)


@pytest.fixture
def legacy_backend(world: World, tmp_path: Path) -> Iterator[str]:
    """A backend of its own with the user's legacy token, which an admin has switched on."""
    switches = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    world.client.json("POST", "/api/jwt/settings", body=switches)
    token = world.client.json("GET", "/api/current-user/token")["token"]
    assert jwt_claims(token) is None
    child, url = start_backend(
        port=free_port(),
        profile="nano",
        label_studio_url=world.server.url,
        token=token,
        folder=tmp_path / "backend",
        log=LOGS / "backend-legacy.log",
    )
    try:
        yield url
    finally:
        child.stop()
        world.client.json("POST", "/api/jwt/settings", body=switches | {"legacy_api_tokens_enabled": False})


def active(backend: str) -> bool:
    """Whether it works on a run, such as one of what came too late in an earlier test."""
    runs = httpx.get(f"{backend}/runs", headers={"Accept": "application/json"}, trust_env=False, timeout=60.0).json()
    return any(run["state"] == "active" for run in runs["runs"])


def check(outcome: Outcome) -> None:
    assert len(outcome.tasks) == TASKS
    assert {name for name, found in outcome.predictions.items() if len(found) == 1} == set(outcome.tasks) - set(BROKEN)
    for name, words in BROKEN.items():
        assert outcome.predictions[name] == []
        assert words in outcome.reason(name)
    regions = sum(bool(outcome.predictions[name][0]["result"]) for name in outcome.tasks if name not in BROKEN)
    assert regions >= 20, "two thirds of the scenes hold an animal"


def test_forty_tasks_with_a_personal_access_token(world: World, tmp_path: Path) -> None:
    outcome = run(world, world.backend, tmp_path)
    check(outcome)
    said = world.server.child.log.read_text(errors="replace")
    assert "POST /api/token/refresh/" in said, "the token was exchanged"


def test_forty_tasks_with_a_legacy_token(world: World, legacy_backend: str, tmp_path: Path) -> None:
    until(lambda: not active(world.backend), "the backend with the other token has nothing to do")
    log = world.server.child.log
    before = len(log.read_text(errors="replace"))
    outcome = run(world, legacy_backend, tmp_path)
    said = log.read_text(errors="replace")[before:]
    check(outcome)
    assert "POST /api/token/refresh/" not in said
    assert 'int_tasks_total{outcome="failed"}' in outcome.metrics
