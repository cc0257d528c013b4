"""The page ``/runs`` in a browser: a run is begun with its form, and its pictures show what Label Studio got."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from ml_backend.demo.samples import load_samples, samples_folder
from tests.e2e import pictures
from tests.e2e.browser import open_page
from tests.e2e.conftest import ARTIFACTS, World

pytestmark = pytest.mark.e2e

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="mask" toName="image"><Label value="Polyp" background="#ff00ff"/></PolygonLabels>
</View>
"""
WAIT_MS = 300_000


@pytest.fixture(scope="module")
def runs_page(world: World) -> Iterator[Page]:
    with open_page(world.backend) as opened:
        yield opened


def test_a_run_begun_on_the_page(world: World, runs_page: Page, tmp_path: Path) -> None:
    scenes = [sample.image for sample in load_samples(samples_folder()) if sample.task == "polyp"]
    broken = [pictures.truncated(scenes[0], tmp_path / "truncated.png"), pictures.text_file(tmp_path / "text.png")]
    project = world.client.create_project("Runs", CONFIG)
    ids = world.client.upload(project, [*scenes, *broken])

    view = {"project": project, "data": {"title": "Mine", "type": "list"}}
    number = int(world.client.json("POST", "/api/dm/views", body=view)["id"])
    runs_page.goto(f"{world.backend}/runs")
    if not runs_page.get_by_role("combobox", name="Project", exact=True).is_visible():
        runs_page.get_by_text("New run").click()
    runs_page.get_by_role("combobox", name="Project", exact=True).select_option(label=f"{project} Runs")
    runs_page.get_by_role("button", name="Choose").click()
    view_list = runs_page.get_by_role("combobox", name=f"View of project {project}")
    expect(view_list.locator("option")).to_have_text(["all tasks", f"{number} Mine"])
    view_list.select_option(str(number))
    runs_page.get_by_label("Prompt").fill("polyp")
    runs_page.get_by_label("Most tasks").fill("0")
    runs_page.keyboard.press("Enter")  # refused: the form is there again, the cursor in the field that is wrong
    expect(runs_page.get_by_role("alert")).to_contain_text("Most tasks: Input should be greater than or equal to 1")
    expect(runs_page.get_by_label("Most tasks")).to_be_focused()
    expect(runs_page.get_by_label("Prompt")).to_have_value("polyp")
    expect(view_list).to_have_value(str(number))
    runs_page.screenshot(path=ARTIFACTS / "runs-refused.png")
    runs_page.get_by_label("Most tasks").fill("")
    runs_page.get_by_role("button", name="Start run").click()
    heading = runs_page.get_by_role("heading", level=1)
    expect(heading).to_contain_text("finished", timeout=WAIT_MS)  # the page renews itself

    shown = runs_page.locator(".sheet img")
    expect(shown).to_have_count(len(scenes))
    for picture in shown.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("async (it) => { await it.decode(); return it.naturalWidth }") > 64
    runs_page.evaluate("scrollTo(0, 0)")
    runs_page.screenshot(path=ARTIFACTS / "runs-run.png", full_page=True)
    reasons = runs_page.locator("td.reason").all_inner_texts()
    assert len(reasons) == len(broken)
    assert all(reasons)
    tasks = {task["id"]: task["predictions"] for task in world.client.tasks(project)}
    assert {task: len(found) for task, found in tasks.items()} == {
        task: int(name in {path.name for path in scenes}) for name, task in ids.items()
    }

    runs_page.get_by_role("button", name="Retry failed images").click()
    expect(heading).to_contain_text("finished", timeout=WAIT_MS)
    runs_page.goto(f"{world.backend}/runs")
    expect(runs_page.locator("tbody tr").first).to_contain_text("polyp")
    runs_page.screenshot(path=ARTIFACTS / "runs-list.png", full_page=True)
    run = httpx.get(f"{world.backend}/runs", trust_env=False).json()["runs"][0]
    run_id = run["id"]
    assert run["view"] == number
    runs_page.emulate_media(color_scheme="dark")
    runs_page.set_viewport_size({"width": 420, "height": 900})
    runs_page.goto(f"{world.backend}/runs/{run_id}?state=done")
    assert runs_page.evaluate("document.documentElement.scrollWidth") <= 420
    runs_page.screenshot(path=ARTIFACTS / "runs-phone.png")
