"""``/projects/ID/learning`` over a real socket: versions, verdicts, effort, pictures; who may change what serves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.learning.adaptation import Adaptation, Outline
from int_model.learning.bundle import Manifest, pack
from ml_backend.labelstudio.annotation_events import Annotation
from ml_backend.learning.versions import Versions
from ml_backend.storage.annotations import Annotations
from tests.integration.runs.test_web import PAGE, connected, url
from tests.support.harness import Backend, picture
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

PROJECT = 1
BEGUN = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
TABLE = {
    "base": {"click": 0.5, "box": 0.7, "mean": 0.6},
    "outlines": {"click": 0.7, "box": 0.9, "mean": 0.8},
}


def rectangle(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    """A region of `picture`, whose red box is 20..50 x 10..40 of 80 x 60 pixels; given in pixels."""
    return {
        "id": "r", "from_name": "label", "to_name": "image", "type": "polygonlabels", "image_rotation": 0,
        "original_width": 80, "original_height": 60,
        "value": {
            "points": [
                [100 * a / 80, 100 * b / 60]
                for a, b in ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
            ],
            "closed": True,
            "polygonlabels": ["Animal"],
        },
    }  # fmt: skip


RIGHT, WRONG = rectangle(20, 10, 30, 30), rectangle(45, 30, 20, 20)


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks={n: {"data": {"image": url(picture())}} for n in (1, 2)})
    made.tasks[1]["annotations"] = [{"id": 7, "result": [RIGHT], "was_cancelled": False}]
    made.keep([{"task": 1, "result": [WRONG], "score": 0.5, "model_version": "int-old"}])
    made.keep([{"task": 2, "result": [RIGHT], "score": 0.5, "model_version": "int-new"}])
    with label_studio(made) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


@pytest.fixture
def versions(running: Backend) -> Versions:
    found: Versions = running.app.state.context.facilities.versions
    return found


def bundle(running: Backend, offset: float, *, parent: str = "", base: str = "", refused: bool = False) -> bytes:
    figures = {
        "table": TABLE,
        "gain": {"value": 0.2, "lower": 0.12, "images": 16},
        "end_to_end": {"parent": 0.61, "candidate": 0.79, "lower": 0.1, "images": 16},
        "reasons": ["the label 'Animal' loses 0.100 mean IoU on 9 held-out images"] if refused else [],
    }
    fits = base or running.app.state.context.facilities.bundles.base
    manifest = Manifest(base=fits, data="d", arm="outlines", parent=parent, images=16, figures=figures)
    return pack(Adaptation(outlines={"animal": Outline(offset=offset)}), manifest)


def two_versions(running: Backend, versions: Versions) -> None:
    """v1 serves, v2 was refused."""
    report = {"worst": [{"image": "task 1", "iou": 0.31}, {"image": "a/b.png", "iou": 0.4}]}
    first = versions.add(PROJECT, bundle(running, 0.1), accepted=True, serve=True, report=report)
    versions.add(PROJECT, bundle(running, 0.2, parent=first.id, refused=True), accepted=False)


def shown(running: Backend, query: str = "") -> str:
    answer = running.client.get(f"/projects/{PROJECT}/learning{query}", headers=PAGE)
    assert answer.status_code == 200, answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.text


def test_a_project_that_learned_nothing_says_what_to_do(running: Backend) -> None:
    text = shown(running)
    assert "Nothing has been learned yet" in text
    assert "Roll back" not in text
    answer = running.client.get(f"/projects/{PROJECT}/learning").json()
    assert (answer["serving"], answer["versions"], answer["history"]) == ("base", [], [])


def test_versions_arms_and_the_verdict_in_words(running: Backend, versions: Versions) -> None:
    two_versions(running, versions)
    text = shown(running)
    for words in (
        "Accepted: +0.200 IoU on 16 images that it had not seen, at least +0.120.",
        "Refused: the label &#39;Animal&#39; loses 0.100 mean IoU on 9 held-out images.",
        "another mask, threshold or offset of the outline",
        "0.610 → 0.790",
        "Roll back: let serve again what served before v1",
        "although the gate refused it",
        "v1: where it is worst",
        "learning/tasks/1/picture",
    ):
        assert words in text, words
    assert "v2: the arms that were compared" in shown(running, "?version=v2")
    (second, first) = running.client.get(f"/projects/{PROJECT}/learning").json()["versions"]
    assert (first["name"], first["serving"], first["accepted"]) == ("v1", True, True)
    assert first["held_out_iou"] == {"base": 0.6, "own": 0.8}
    assert (second["name"], second["serving"], second["accepted"]) == ("v2", False, False)


def test_promote_and_roll_back_from_the_page_and_over_json(running: Backend, versions: Versions) -> None:
    two_versions(running, versions)
    post = running.client.post
    root = f"/projects/{PROJECT}/learning"
    refused = post(f"{root}/promote", json={"version": "v2"})
    assert refused.status_code == 409
    assert "the gate refused v2" in refused.json()["error"]
    assert versions.serving(PROJECT).name == "v1"
    form = {"version": "v2", "force": "true"}
    answer = post(f"{root}/promote", data=form, headers=PAGE, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "../learning")
    assert versions.serving(PROJECT).name == "v2"
    assert post(f"{root}/rollback", headers=PAGE, follow_redirects=False).status_code == 303
    assert post(f"{root}/promote", json={"version": "base"}).json() == {"project": 1, "serving": "base", "id": ""}
    nothing = post(f"{root}/rollback")
    assert nothing.status_code == 409
    assert "nothing to roll back to" in nothing.json()["error"]
    text = shown(running)
    for words in ("promoted by the gate v1", "promoted v2", "rolled back to v1", "promoted base"):
        assert words in text, words


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_other_sites_change_nothing(running: Backend, versions: Versions, action: str) -> None:
    two_versions(running, versions)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        answer = running.client.post(
            f"/projects/{PROJECT}/learning/{action}", json={"version": "base"}, headers=headers
        )
        assert answer.status_code == 403
    assert versions.serving(PROJECT).name == "v1"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("promote", {}, 400),
        ("promote", {"version": 3}, 400),
        ("promote", {"version": "v9"}, 409),
        ("promote", {"version": "x" * 200}, 400),
    ],
)
def test_what_is_wrong_gets_a_sentence(running: Backend, path: str, body: dict[str, Any], status: int) -> None:
    answer = running.client.post(f"/projects/{PROJECT}/learning/{path}", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]
    page = running.client.post(f"/projects/{PROJECT}/learning/{path}", json=body, headers=PAGE)
    assert page.status_code == status
    assert 'href="../../../runs"' in page.text, "the navigation of an error leads back"


def test_a_version_for_another_segmenter_is_refused(running: Backend, versions: Versions) -> None:
    versions.add(PROJECT, bundle(running, 0.1, base="another"), accepted=True)
    answer = running.client.post(f"/projects/{PROJECT}/learning/promote", json={"version": "v1"})
    assert answer.status_code == 409
    assert "trained on another segmenter" in answer.json()["error"]


def annotated(number: int, task: int, prediction: int | None, version: str, seconds: float) -> Annotation:
    moment = BEGUN + timedelta(minutes=number)
    return Annotation.model_construct(
        id=number, task=task, result=[RIGHT], parent_prediction=prediction, model_version=version, lead_time=seconds,
        completed_by=1, was_cancelled=False, created_at=moment, updated_at=moment,
    )  # fmt: skip


def test_what_corrections_cost_before_and_after(running: Backend, fake: LabelStudio, versions: Versions) -> None:
    first = versions.add(PROJECT, bundle(running, 0.1), accepted=True, serve=True)
    versions.name(PROJECT, "int-new", first.id)
    (before,), (after,) = fake.predictions[1], fake.predictions[2]
    kept = Annotations(running.app.state.context.store.database)
    kept.upsert(PROJECT, [
        annotated(1, 1, before["id"], "int-old", 40.0), annotated(2, 1, before["id"], "int-old", 20.0),
        annotated(3, 2, after["id"], "int-new", 4.0), annotated(4, 2, None, "", 90.0),
        annotated(5, 2, after["id"], "int-new", 7200.0),
    ])  # fmt: skip
    rows = {row["version"]: row for row in running.client.get(f"/projects/{PROJECT}/learning").json()["efforts"]}
    assert set(rows) == {"base", "v1", "without a prediction"}
    assert (rows["base"]["images"], rows["base"]["seconds"], rows["base"]["compared"]) == (2, 30.0, 2)
    assert rows["base"]["correction_efforts"] > 5
    assert (rows["v1"]["seconds"], rows["v1"]["correction_efforts"]) == (4.0, 0.0), "an hour away from the desk"
    assert rows["without a prediction"]["correction_efforts"] is None
    assert "What corrections cost" in shown(running)
    fake.down = True
    answer = running.client.get(f"/projects/{PROJECT}/learning")
    assert answer.status_code == 200, "what was counted is kept, and nothing is asked again"
    assert {row["version"]: row["correction_efforts"] for row in answer.json()["efforts"]}["base"] > 5


def test_a_picture_shows_what_was_missed_and_what_is_too_much(running: Backend, fake: LabelStudio) -> None:
    answer = running.client.get(f"/projects/{PROJECT}/learning/tasks/1/picture")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    image = np.asarray(PilImage.open(io.BytesIO(answer.content))).astype(int)
    scale = image.shape[0] / 60
    missed, extra = image[int(20 * scale), int(30 * scale)], image[int(45 * scale), int(60 * scale)]
    assert missed[2] > missed[0] + 30, "blue where the prediction lacks"
    assert extra[0] > extra[2] + 30, "red where it has too much"
    for task, words in ((2, "has no annotation"), (9, "is not in project 1")):
        nothing = running.client.get(f"/projects/{PROJECT}/learning/tasks/{task}/picture")
        assert nothing.status_code == 404
        assert words in nothing.text
