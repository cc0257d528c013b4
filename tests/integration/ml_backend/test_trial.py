"""``int-backend try`` against the stand-in for Label Studio: sides, truth, figures, the page; nothing is pushed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.context import AppContext
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.settings import Settings
from ml_backend.trial.command import lines
from ml_backend.trial.figures import FIGURES, compare, figures_of, verdict
from ml_backend.trial.page import render_page
from ml_backend.trial.trial import TrialError, choose, run_trial
from ml_backend.trial.types import Outcome, Region, Side, Trial, TrialRequest, Tried
from tests.integration.runs.test_web import PAGE, connected, tasks
from tests.support.harness import IDENTITY, POLYGONS, RedThings
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.waiting import until

SIDES = (Side(), Side("animal"))
OTHER = Side("old & new", "grounded_sam")


@pytest.fixture
def fake() -> Iterator[LabelStudio]:
    """Tasks 1 and 4 are annotated: the left half of the image is the truth; 3 is broken."""
    made = LabelStudio(valid={f"Token {TOKEN}"}, tasks=tasks(6))
    made.project |= {"title": "Red <things>", "label_config": POLYGONS}
    half = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["Animal"]}
    region = {"id": "a", "type": "polygonlabels", "from_name": "label", "to_name": "image", "value": half}
    for task in (1, 4):
        result = [region | {"original_width": 80, "original_height": 60}]
        made.tasks[task] |= {"annotations": [{"id": task, "result": result}], "total_annotations": 1}
    with label_studio(made) as running:
        yield running


def tried(fake: LabelStudio, folder: Path, request: TrialRequest) -> Trial:
    given: dict[str, Any] = {"label_studio_url": fake.url, "label_studio_api_key": TOKEN, "data_dir": folder}

    async def go() -> Trial:
        context = AppContext.open(Settings(**given), load=RedThings, identity=IDENTITY, connected=True)
        try:
            await context.start()
            return await run_trial(context, request)
        finally:
            await context.close()

    return asyncio.run(go())


def test_sides_are_compared_with_what_people_drew_and_nothing_is_pushed(fake: LabelStudio, tmp_path: Path) -> None:
    trial = tried(fake, tmp_path, TrialRequest(1, SIDES, images=6))
    assert [one.task for one in trial.images] == [1, 2, 3, 4, 5, 6]
    assert trial.annotated == 2
    first = trial.images[0]
    assert first.truth is not None
    assert first.truth[:, :40].all()
    assert not first.truth[:, 41:].any()
    for outcome in first.outcomes:
        (region,) = outcome.regions
        found, truth = region.mask, first.truth
        assert outcome.figures["iou"] == pytest.approx((found & truth).sum() / (found | truth).sum())
        assert set(outcome.figures) == set(FIGURES)
    assert trial.images[1].outcomes[0].regions == ()
    assert all("image" in outcome.error for outcome in trial.images[2].outcomes)
    assert trial.images[4].truth is None
    assert "No difference" in trial.verdict
    assert fake.pushed() == []
    assert fake.patches == []
    assert all(request.method != "POST" or "token" in request.path for request in fake.requests)

    page = render_page(trial, "../1")
    assert page.count('data-score="') == 8
    assert "Red &lt;things&gt;" in page
    assert page.count("What people drew") == 4
    assert f"{fake.url}/projects/1/data?task=1" in page
    assert 'href="../1?prompt=animal#connect"' in page
    assert "http-equiv" in page
    told = json.loads(json.dumps(trial.as_json()))
    assert [len(side["figures"]) for side in told["sides"]] == [3, 3]
    assert any("mean IoU" in line for line in lines(trial))


def test_using_a_side_asks_for_its_prompt_and_strategy() -> None:
    page = render_page(Trial(TrialRequest(1, (Side(), OTHER)), "Things", (), {}, 0, ""), "../1")
    assert 'href="../1?#connect">Use the project’s prompts…' in page
    assert 'href="../1?prompt=old+%26+new&amp;strategy=grounded_sam#connect"' in page
    assert "#connect" not in render_page(Trial(TrialRequest(1, (OTHER,)), "Things", (), {}, 0, ""))


def test_the_choice_is_repeatable_and_can_ask_for_annotated_tasks(fake: LabelStudio) -> None:
    with LabelStudioClient(fake.url, TOKEN) as client:
        some = TrialRequest(1, SIDES, images=3, seed=4)
        first = [row["id"] for row in choose(client, some)]
        assert first == [row["id"] for row in choose(client, some)]
        assert len(first) == 3
        drawn = {tuple(r["id"] for r in choose(client, TrialRequest(1, SIDES, 3, seed=n))) for n in range(12)}
        assert len(drawn) > 3
        assert [row["id"] for row in choose(client, TrialRequest(1, SIDES, 5, annotated=True))] == [1, 4]


def test_a_project_without_tasks_is_said(fake: LabelStudio, tmp_path: Path) -> None:
    fake.tasks.clear()
    with pytest.raises(TrialError, match="project 1 has no task to try"):
        tried(fake, tmp_path, TrialRequest(1, SIDES))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"images": 0}, "from 1 to"),
        ({"images": 51}, "from 1 to"),
        ({"sides": ()}, "sides"),
        ({"sides": (Side("a"), Side("a"))}, "the same"),
        ({"sides": tuple(Side(str(i)) for i in range(5))}, "sides"),
    ],
)
def test_requests_that_make_no_sense_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TrialRequest(**{"project": 1, "sides": SIDES} | given)


def outcome(iou: float) -> Outcome:
    return Outcome(figures={"iou": iou, "dice": iou, "hce": 10 - iou})


def test_a_clear_difference_is_told_and_a_chance_one_is_not() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(0.3, 0.8, 20)
    clear = [Tried(i, "", None, None, (outcome(b), outcome(b + 0.1 + 0.01 * (i % 3)))) for i, b in enumerate(base)]
    found, annotated = compare(clear, 2)
    assert annotated == 20
    assert "'animal' is the best on 20" in verdict(found, SIDES, annotated)
    assert found["iou"][1].difference is not None
    assert found["iou"][1].difference[1] > 0.09
    noise = [Tried(i, "", None, None, (outcome(b), outcome(b + (0.1 if i % 2 else -0.1)))) for i, b in enumerate(base)]
    found, annotated = compare(noise, 2)
    assert "No difference" in verdict(found, SIDES, annotated)
    alone, count = compare(clear[:1], 2)
    assert "No difference" in verdict(alone, SIDES, count)


def test_figures_of_empty_masks() -> None:
    none, half = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    half[:, :15] = True
    assert figures_of([], none)["iou"] == figures_of([], none)["dice"] == 1.0
    assert figures_of([], half)["iou"] == 0.0
    assert figures_of([Region("a", 0.5, half)], half) == {"iou": 1.0, "dice": 1.0, "hce": 0.0}


def test_over_http(fake: LabelStudio, tmp_path: Path) -> None:
    with connected(tmp_path, fake) as running:
        client = running.client
        assert client.get("/projects/1/try").status_code == 404
        form = client.get("/projects/1/try", headers=PAGE)
        assert (form.status_code, "Strategy 2" in form.text) == (200, True)
        foreign = {"Origin": "http://evil.example"}
        assert client.post("/projects/1/try", json={"sides": [{}]}, headers=foreign).status_code == 403
        for wrong in ({"sides": "a"}, {"sides": [{"strategy": "magic"}]}, {"sides": [{}], "images": 0}):
            assert client.post("/projects/1/try", json=wrong).status_code == 400
        begun = client.post("/projects/1/try", data={"prompt1": "animal", "images": "6"}, headers=PAGE)
        assert (begun.status_code, begun.headers["location"]) == (303, "try")
        until(lambda: client.get("/projects/1/try").json()["state"] == "done", "the trial is done")
        shown = client.get("/projects/1/try", headers=PAGE)
        assert "data-score" in shown.text
        assert "script-src" in shown.headers["content-security-policy"]
        assert "Strategy 2" in client.get("/projects/1/try?new=1", headers=PAGE).text
        two = {"sides": [{"prompt": "animal"}, {"prompt": "frog"}], "images": 2, "annotated": True}
        assert client.post("/projects/1/try", json=two).status_code == 202
        until(lambda: client.get("/projects/1/try").json()["state"] == "done", "the second trial is done")
        assert client.get("/projects/1/try").json()["annotated"] == 2
        assert fake.pushed() == []
