"""From an empty project to a reviewed run and back, in the backend's own pages: connect, try, run, look, undo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from ml_backend.demo.samples import by_task, load_samples, samples_folder
from tests.e2e.browser import open_page
from tests.e2e.conftest import ARTIFACTS, World
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

WAIT_MS = 300_000
TASK = "polyp"


@pytest.fixture(scope="module")
def workbench(world: World) -> Iterator[Page]:
    with open_page(world.backend) as opened:
        yield opened


def shot(page: Page, name: str) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=ARTIFACTS / f"workbench-{name}.png")


def annotate(world: World, task: int, image: Path) -> None:
    """A person draws a polygon with the mask control: enough to compare sides with."""
    value = {"points": [[20, 20], [70, 20], [70, 70], [20, 70]], "polygonlabels": ["Polyp"]}
    region = {"id": "a", "type": "polygonlabels", "from_name": "mask", "to_name": "image", "value": value}
    width, height = Image.open(image).size
    result = [region | {"original_width": width, "original_height": height}]
    world.client.json("POST", f"/api/tasks/{task}/annotations", body={"result": result, "lead_time": 12.0})


def everything(world: World, project: int) -> dict[str, Any]:
    """All that Label Studio holds of a project: settings, connections, webhooks, views, tasks and what they have."""
    connections = [row | {"updated_at": ""} for row in world.client.connections(project)]  # it asks for their health
    return lasting(
        {
            "project": world.client.project(project),
            "connections": connections,
            "webhooks": world.client.json("GET", "/api/webhooks/", params={"project": project}),
            "views": world.client.json("GET", "/api/dm/views", params={"project": project}),
            "tasks": world.client.tasks(project),
        }
    )


def lasting(value: Any) -> Any:
    """The same without what only time changes."""
    if isinstance(value, dict):
        return {name: lasting(part) for name, part in value.items() if name != "created_ago"}
    return [lasting(part) for part in value] if isinstance(value, list) else value


def test_from_an_empty_project_to_a_run_and_back(world: World, workbench: Page) -> None:
    samples = by_task(load_samples(samples_folder()))[TASK]
    project = world.client.create_project("Workbench", "<View></View>")
    tasks = list(world.client.upload(project, [sample.image for sample in samples]).values())

    workbench.goto(f"{world.backend}/projects")
    row = workbench.locator("tr", has_text="Workbench")
    expect(row).to_contain_text("not connected")
    shot(workbench, "1-projects")
    row.get_by_role("link", name=f"{project} Workbench").click()

    workbench.get_by_label("Task prompt").fill(TASK)
    workbench.get_by_label("Backend, as Label Studio reaches it").fill(world.backend)
    workbench.get_by_label("Tools for clicks and boxes").check()
    workbench.get_by_role("button", name="Show what would change").click()
    expect(workbench.get_by_label("Difference to the labeling config")).to_contain_text("+<PolygonLabels")
    shot(workbench, "2-connect")
    workbench.get_by_role("button", name="Make these changes").click()
    expect(workbench.locator("main")).to_contain_text(f"int-nano-int-{TASK}-")
    expect(workbench.locator("main")).to_contain_text("Nothing is missing")
    (connection,) = world.client.connections(project)
    assert (connection["state"], connection["extra_params"]) == ("CO", TASK)
    annotate(world, tasks[0], samples[0].image)
    before = everything(world, project)

    workbench.get_by_role("link", name="Try prompts on a few images").click()
    workbench.get_by_label("Prompt 1").fill(TASK)
    workbench.get_by_label("Prompt 2").fill(TASK)
    workbench.get_by_label("Strategy 2", exact=False).and_(workbench.locator("select")).select_option("grounded_sam")
    workbench.get_by_label("Images").fill(str(len(samples)))
    workbench.get_by_role("button", name="Try").click()
    expect(workbench.locator("#threshold")).to_be_visible(timeout=WAIT_MS)  # the page renews itself until then
    regions = workbench.locator("img[data-score]")
    assert regions.count() > 0
    workbench.locator("#threshold").evaluate("(it) => { it.value = 1; it.dispatchEvent(new Event('input')); }")
    assert workbench.locator("img[data-score]:visible").count() < regions.count()
    expect(workbench.locator("main")).to_contain_text("IoU")
    shot(workbench, "3-try")
    assert everything(world, project) == before

    workbench.goto(f"{world.backend}/projects/{project}")
    workbench.get_by_role("link", name="Run with options").click()
    expect(workbench.get_by_role("combobox", name="Project", exact=True)).to_have_value(str(project))
    workbench.get_by_role("button", name="Start run").click()
    heading = workbench.get_by_role("heading", level=1)
    expect(heading).to_contain_text("finished", timeout=WAIT_MS)
    run = httpx.get(f"{world.backend}/runs?project={project}", trust_env=False).json()["runs"][0]
    assert run["total"] == len(samples) - 1  # a person annotated the other task
    workbench.get_by_role("link", name="by doubt").click()
    expect(workbench.locator(".sheet li").first).to_be_visible()
    assert workbench.locator(".sheet a").first.get_attribute("href") is not None
    shot(workbench, "4-review")
    made = sum(len(task["predictions"]) for task in world.client.tasks(project))
    assert made == len(samples) - 1

    (lost,) = world.client.predictions(tasks[1])  # as a restored database loses it
    world.client.delete_prediction(lost["id"])
    back = workbench.url
    workbench.get_by_role("link", name="Verify").click()
    workbench.get_by_role("button", name="Compare with Label Studio").click()
    expect(workbench.locator("main")).to_contain_text(f"Missing from 1 task: {tasks[1]}")
    shot(workbench, "5-verify")
    workbench.get_by_role("button", name="Push 1 missing prediction").click()
    expect(workbench.locator("main")).to_contain_text("1 task done again and pushed")
    until(lambda: world.client.predictions(tasks[1]), "the prediction is there again")
    workbench.goto(back)
    expect(heading).to_contain_text("finished", timeout=WAIT_MS)

    workbench.get_by_role("link", name="Undo").click()
    expect(workbench.locator("main")).to_contain_text(f"of int-nano-int-{TASK}-")
    shot(workbench, "6-undo")
    workbench.get_by_role("button", name=f"Delete {made} prediction").click()
    expect(workbench.locator(".legend")).to_contain_text(f"{made} skipped")
    assert [task["predictions"] for task in world.client.tasks(project)] == [[]] * len(samples)
    assert world.client.json("GET", f"/api/tasks/{tasks[0]}/annotations")
