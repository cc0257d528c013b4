"""``/projects`` over a real socket: what is listed and found, what connecting would change, and who may do it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.runs.test_web import PAGE, connected, url
from tests.support.conversation import recorded
from tests.support.harness import Backend, picture
from tests.support.label_studio import TOKEN, LabelStudio, label_studio

CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="m" toName="image"><Label value="Frog"/>'
    "</PolygonLabels></View>"
)


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks={1: {"data": {"image": url(picture())}}})
    made.project |= {"title": "Frogs & <newts>", "label_config": CONFIG, "model_version": "", "task_number": 1}
    made.others = [recorded("project") | {"id": 9, "title": "Other", "label_config": "<View></View>"}]
    made.connections, made.webhooks = [], []
    with label_studio(made) as running:
        yield running


@pytest.fixture
def running(tmp_path: Path, fake: LabelStudio) -> Iterator[Backend]:
    with connected(tmp_path / "data", fake) as made:
        yield made


def test_projects_are_listed_with_what_is_looked_for(running: Backend, fake: LabelStudio) -> None:
    before = {row["id"]: row for row in running.client.get("/projects").json()["projects"]}
    assert set(before) == {1, 9}
    assert before[1]["version"] == ""
    running.client.post("/setup", json={"project": "1.1", "schema": CONFIG, "extra_params": "poison frog"})
    row = {row["id"]: row for row in running.client.get("/projects").json()["projects"]}[1]
    assert row["prompts"] == [{"label": "Frog", "prompt": "poison frog", "source": "extra params"}]
    assert row["version"].startswith("int-")
    assert row["address"] == f"{fake.url}/projects/1/data"
    page = running.client.get("/projects", headers=PAGE)
    assert "Frogs &amp; &lt;newts&gt;" in page.text
    assert "not connected" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_what_keeps_predictions_from_annotators_stands_in_the_list(running: Backend, fake: LabelStudio) -> None:
    def remarks() -> list[str]:
        found: list[str] = running.client.get("/projects").json()["projects"][0]["remarks"]
        return found

    fake.project |= {"show_collab_predictions": False, "model_version": "int-nano-int-older-01234567"}
    assert remarks() == []  # it is not connected: that is what stands there
    running.client.post("/setup", json={"project": "1.1", "schema": CONFIG, "extra_params": "poison frog"})
    hidden, other = remarks()
    assert "does not show predictions" in hidden
    assert "predictions of 'int-nano-int-older-01234567', not those of" in other
    shown = running.client.get("/projects", headers=PAGE).text
    assert 'href="projects/1#findings"' in shown
    assert hidden in shown
    assert 'id="findings"' in running.client.get("/projects/1", headers=PAGE).text
    fake.project |= {"show_collab_predictions": True, "model_version": "INT"}  # as Label Studio chooses by itself
    assert remarks() == []


def test_a_project_is_connected_from_its_page(running: Backend, fake: LabelStudio) -> None:
    shown = running.client.get("/projects/1", params={"prompt": "poison frog", "smart": "true"}, headers=PAGE)
    assert shown.status_code == 200, shown.text
    for text in ("has no connection to an ML backend", "smart tools", "Make these changes", "+&lt;KeyPointLabels"):
        assert text in shown.text
    assert fake.patches == []
    form = {"prompt": "poison frog", "smart": "true"}
    done = running.client.post("/projects/1/connect", data=form, headers=PAGE, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "../1")
    (row,) = fake.connections
    assert (row["extra_params"], row["is_interactive"]) == ("poison frog", True)
    assert fake.project["model_version"] == row["title"]
    again = running.client.post("/projects/1/connect", json={"prompt": "poison frog", "smart": True})
    assert [plan["changes"] for plan in again.json()["plans"]] == [[], []]
    assert "Nothing is missing" in running.client.get("/projects/1", headers=PAGE).text


def test_strategy_and_threshold_of_a_trial_are_shown_and_then_kept(running: Backend, fake: LabelStudio) -> None:
    wanted = {"prompt": "poison frog", "strategy": "grounded_sam", "threshold": "0.4"}
    page = running.client.get("/projects/1", params=wanted, headers=PAGE).text
    assert "strategy grounded_sam, score threshold 0.40" in page
    assert '<option value="grounded_sam" selected>' in page
    assert (
        running.client.post("/projects/1/connect", data=wanted, headers=PAGE, follow_redirects=False).status_code == 303
    )
    (row,) = fake.connections
    kept = {"prompt": "poison frog", "strategy": "grounded_sam", "score_threshold": 0.4}
    assert json.loads(row["extra_params"]) == kept
    again = running.client.post("/projects/1/connect", json={"threshold": 0.5})
    assert again.json()["plans"][0]["changes"][0]["what"].endswith("its score threshold 0.50")
    assert json.loads(row["extra_params"]) == kept | {"score_threshold": 0.5}
    fake.project["label_config"] = CONFIG.replace('toName="image">', 'toName="image" model_strategy="int">', 1)
    remarks = running.client.get("/projects/1", params=wanted).json()["plans"][0]["remarks"]
    assert remarks == ["the labeling config sets these itself, and goes first: model_strategy of 'm'"]


def test_a_run_can_be_started_from_the_projects_page(running: Backend, fake: LabelStudio) -> None:
    assert "Run on the whole project" not in running.client.get("/projects/1", headers=PAGE).text
    running.client.post("/setup", json={"project": "1.1", "schema": CONFIG, "extra_params": "poison frog"})
    assert "Run on the whole project" in running.client.get("/projects/1", headers=PAGE).text
    begun = running.client.post("/runs", data={"project": "1"}, headers=PAGE, follow_redirects=False)
    assert (begun.status_code, begun.headers["location"]) == (303, "runs/1")


def test_what_cannot_be_done_is_said_on_the_page(running: Backend, fake: LabelStudio) -> None:
    shown = running.client.get("/projects/1", params={"control": "brush"}, headers=PAGE)
    assert shown.status_code == 200
    assert "polygon control already" in shown.text
    assert "Make these changes" not in shown.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/projects/0x1", None, 400),
        ("GET", "/projects/77", None, 404),
        ("GET", "/projects/1?control=circle", None, 400),
        ("POST", "/projects/1/connect", {"colour": "red"}, 400),
        ("POST", "/projects/1/connect", {"prompt": ["a"]}, 400),
        ("POST", "/projects/1/connect", {"prompt": "a" * 300}, 400),
        ("POST", "/projects/1/connect", ["prompt"], 400),
        ("POST", "/projects/1/connect", {"strategy": "magic"}, 400),
        ("POST", "/projects/1/connect", {"threshold": 1.5}, 400),
        ("POST", "/projects/1/connect", {"threshold": "half"}, 400),
        ("POST", "/projects/1/connect", {"threshold": True}, 400),
        ("GET", "/projects/1?threshold=nan", None, 400),
        ("GET", "/projects/1/connect", None, 405),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    running: Backend, fake: LabelStudio, method: str, path: str, body: object, status: int
) -> None:
    answer = running.client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["cure"]
    assert fake.patches == []


def test_another_sites_page_connects_nothing(running: Backend, fake: LabelStudio) -> None:
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = running.client.post("/projects/1/connect", data={"prompt": "a"}, headers=foreign)
    assert answer.status_code == 403
    assert fake.connections == []


def test_without_label_studio_the_settings_are_named(tmp_path: Path) -> None:
    from tests.support.harness import backend

    with backend(tmp_path) as alone:
        answer = alone.client.get("/projects")
    assert answer.status_code == 502
    assert "LABEL_STUDIO_URL" in answer.json()["error"]
