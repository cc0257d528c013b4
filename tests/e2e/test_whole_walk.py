"""From an empty Label Studio to a reviewed run and back in one browser: pictures of each step, clicks and seconds.

Run alone (``pytest -m slow tests/e2e/test_whole_walk.py``) it begins with a Label Studio that holds nothing. Table and
pictures are left in ``artifacts/walk``. Not counted are the project's making and the upload of its pictures, which are
Label Studio's own, and what people drew on three of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from ml_backend.demo.samples import Sample, by_task, load_samples, samples_folder
from ml_backend.labelstudio.regions.polygon import encode_polygons
from tests.e2e.browser import log_in, open_page
from tests.e2e.conftest import ARTIFACTS, Login, World
from tests.e2e.test_connect import connect
from tests.e2e.test_workbench import everything
from tests.e2e.walk import Walk

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WAIT_MS = 400_000
TASK, OTHER = "camouflaged animal", "animal"
ANNOTATED = 3
MOST_CLICKS = {"connect": 6, "try": 6, "choose": 4, "run": 1, "review": 5, "undo": 2}


@pytest.fixture(scope="module")
def browser(world: World) -> Iterator[Page]:
    with open_page(world.backend, world.server.url) as opened:
        log_in(opened, world.server.url, world.server.email, world.server.password)
        yield opened


def annotate(world: World, task: int, sample: Sample) -> None:
    """What a person draws who outlines the object exactly."""
    mask = np.asarray(Image.open(sample.mask).convert("L")) > 127
    height, width = mask.shape
    result = [
        {"id": f"r{i}", "type": "polygonlabels", "from_name": "mask", "to_name": "image", "original_width": width,
         "original_height": height, "value": {"points": points, "closed": True, "polygonlabels": ["Animal"]}}
        for i, (points, _) in enumerate(encode_polygons(mask))
    ]  # fmt: skip
    world.client.json("POST", f"/api/tasks/{task}/annotations", body={"result": result, "lead_time": 30.0})


def connect_by_page(walk: Walk, world: World, project: int) -> None:
    page = walk.page
    with walk.step("projects"):
        page.goto(f"{world.backend}/projects")
        expect(page.locator("tr", has_text="Walk")).to_contain_text("not connected")
    with walk.step("connect"):
        walk.click(page.get_by_role("link", name=f"{project} Walk"), "the project")
        walk.type(page.get_by_label("Task prompt"), OTHER, "task prompt")
        walk.click(page.get_by_label("Tools for clicks and boxes"), "tools for clicks and boxes")
        walk.click(page.get_by_role("button", name="Show what would change"), "Show what would change")
        expect(page.get_by_label("Difference to the labeling config")).to_be_in_viewport()
        walk.picture("connect shows the difference")
        walk.click(page.get_by_role("button", name="Make these changes"), "Make these changes")
        expect(page.locator("main")).to_contain_text(f"int-nano-int-{OTHER}-")
        expect(page.locator("main")).to_contain_text("Nothing is missing")


def try_and_choose(walk: Walk) -> None:
    page = walk.page
    with walk.step("try"):
        walk.click(page.get_by_role("link", name="Try prompts on a few images"), "Try prompts")
        walk.type(page.get_by_label("Prompt 1"), OTHER, "prompt 1")
        walk.type(page.get_by_label("Prompt 2"), TASK, "prompt 2")
        walk.click(page.get_by_label("Only annotated tasks", exact=False), "only annotated tasks")
        walk.picture("the form of a trial")
        walk.click(page.get_by_role("button", name="Try"), "Try")
        expect(page.locator("#threshold")).to_be_visible(timeout=WAIT_MS)
        expect(page.locator("main")).to_contain_text(f"on {ANNOTATED} annotated images")
    with walk.step("choose"):
        slider = page.locator("#threshold").bounding_box()
        assert slider is not None
        middle = slider["y"] + slider["height"] / 2
        start, end = (slider["x"] + 8, middle), (slider["x"] + slider["width"] * 0.4, middle)
        walk.drag(start, end, "the threshold")
        expect(page.locator("#value")).to_have_text(re.compile(r"0\.(3|4)\d"))
        walk.picture("the threshold hides regions")
        walk.click(page.get_by_role("link", name=f"Use {TASK}…"), "Use")
        expect(page.get_by_role("button", name="Make these changes")).to_be_in_viewport()
        walk.picture("what using it would change")
        walk.click(page.get_by_role("button", name="Make these changes"), "Make these changes")
        expect(page.locator("main")).to_contain_text("int-nano-int-camouflaged-animal-")


def run_and_review(walk: Walk, world: World, waiting: int) -> None:
    page = walk.page
    with walk.step("run"):
        walk.click(page.get_by_role("button", name="Run on the whole project"), "Run on the whole project")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text("finished", timeout=WAIT_MS)
        expect(page.locator(".legend")).to_contain_text(f"{waiting} done")
    with walk.step("review"):
        walk.click(page.get_by_role("link", name="by doubt"), "by doubt")
        expect(page.locator(".sheet li").first).to_be_visible()
        walk.picture("the sheet by doubt")
        back = page.url
        walk.click(page.locator(".sheet a").first, "the most doubtful picture")
        page.wait_for_function("() => [...document.querySelectorAll('img[alt=image]')].some(i => i.naturalWidth > 0)")
        page.get_by_label("Submit current annotation").wait_for()
        walk.picture("the most doubtful picture in Label Studio")
        with page.expect_response(lambda a: "/annotations" in a.url and a.request.method == "POST") as saved:
            walk.click(page.get_by_label("Submit current annotation"), "Submit")
        assert saved.value.status == 201
        page.goto(back)
        expect(page.locator(".sheet img").first).to_be_visible()
        walk.note_click("back to the run")


def test_from_an_empty_label_studio_to_a_reviewed_run_and_back(world: World, login: Login, browser: Page) -> None:
    samples = by_task(load_samples(samples_folder()))[TASK]
    there = int(world.client.json("GET", "/api/projects")["count"])
    walk = Walk(browser, ARTIFACTS / "walk", f"From a Label Studio with {there} projects to a reviewed run and back")
    project = world.client.create_project("Walk", "<View></View>")
    tasks = world.client.upload(project, [sample.image for sample in samples])
    connect_by_page(walk, world, project)
    said = connect(world, login.token, project, "--prompt", OTHER, "--smart", "--dry-run")
    assert "has all that it needs" in said.stdout, said.stdout + said.stderr
    (connection,) = world.client.connections(project)
    assert (connection["state"], connection["is_interactive"]) == ("CO", True)
    for sample in samples[:ANNOTATED]:
        annotate(world, tasks[sample.image.name], sample)

    before = everything(world, project)
    try_and_choose(walk)
    assert everything(world, project)["tasks"] == before["tasks"]
    params: dict[str, Any] = httpx.Response(200, text=world.client.connections(project)[0]["extra_params"]).json()
    assert params["prompt"] == TASK
    assert 0.3 <= params["score_threshold"] < 0.5

    waiting = len(samples) - ANNOTATED
    run_and_review(walk, world, waiting)
    run = httpx.get(f"{world.backend}/runs?project={project}", trust_env=False).json()["runs"][0]
    assert run["total"] == waiting
    assert sum(len(task["predictions"]) for task in world.client.tasks(project)) == waiting
    with walk.step("undo"):
        walk.click(browser.get_by_role("link", name="Undo"), "Undo")
        expect(browser.locator("main")).to_contain_text("1 prediction will stay")
        walk.picture("what undoing would delete")
        walk.click(browser.get_by_role("button", name=f"Delete {waiting - 1} predictions"), "Delete")
        expect(browser.locator(".legend")).to_contain_text(f"{waiting - 1} skipped")
    left = world.client.tasks(project)
    assert sum(len(task["predictions"]) for task in left) == 1
    assert sum(len(task["annotations"]) for task in left) == ANNOTATED + 1
    clicks = {step.name: step.clicks for step in walk.steps}
    assert {name: most for name, most in MOST_CLICKS.items() if clicks[name] > most} == {}, walk.table()
    assert Path(ARTIFACTS / "walk" / "walk.md").is_file()
