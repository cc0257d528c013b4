"""A bootstrapped data set where people meet it: Label Studio's import, and the contact sheet in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from playwright.sync_api import Page
from typer.testing import CliRunner

from int_model.datasets.contents import Selection
from int_model.datasets.review import ReviewWriter
from int_model.models import suite as suites
from ml_backend.cli import main as cli
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e.browser import open_page
from tests.e2e.conftest import ARTIFACTS, Login
from tests.support.fakes import fake_suite, scene
from tests.unit.int_model.datasets.folders import filled, items

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("kind", "count"), [("polygon", 3), ("brush", 2), ("bitmask", 2)])
def test_label_studio_imports_every_task_with_its_prediction(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, count: int
) -> None:
    monkeypatch.setattr(suites, "load_suite", lambda *_, **__: fake_suite())
    monkeypatch.chdir(tmp_path)
    truth = {}
    for name, things in {
        "one": [("frog", 40, 40, 14)],
        "two": [("owl", 90, 60, 15), ("frog", 30, 30, 12)],
        "no": [],
    }.items():
        image, masks = scene(objects=things)
        (tmp_path / "in").mkdir(exist_ok=True)
        PilImage.fromarray(image).save(tmp_path / "in" / f"{name}.png")
        truth[f"{name}.png"] = np.logical_or.reduce([np.zeros(image.shape[:2], bool), *masks])
    options = ["--formats", "label-studio", "--ls-regions", kind, "--strategy", "grounded_sam", "--out", "out"]
    done = CliRunner().invoke(cli.app, ["bootstrap", "in", "--task", "Frog=frog", "--task", "Owl=owl", *options])
    assert done.exit_code == 0, done.output

    client = login.client
    config = (tmp_path / "out/label-studio/labeling_config.xml").read_text()
    project = client.create_project(f"bootstrap {kind}", config)
    file = tmp_path / "out/label-studio/tasks-0001.json"
    answer = client.json(
        "POST",
        f"/api/projects/{project}/import",
        files={"tasks": (file.name, file.read_bytes(), "application/json")},
    )
    assert answer["task_count"] == 3
    tasks = {task["data"]["file"]: task for task in client.tasks(project)}
    assert set(tasks) == set(truth)
    written = {task["data"]["file"]: task for task in json.loads(file.read_text())}
    for name, mask in truth.items():
        assert tasks[name]["data"] == written[name]["data"]
        (prediction,) = client.predictions(tasks[name]["id"])
        (wanted,) = written[name]["predictions"]
        assert prediction["model_version"] == wanted["model_version"]
        assert prediction["score"] == pytest.approx(wanted["score"])
        assert prediction["result"] == wanted["result"], "stored as it was written"
        shown = np.zeros_like(mask)
        for region in prediction["result"]:
            shown |= decode_region(region)
        assert (shown & mask).sum() >= 0.9 * (shown | mask).sum()
    assert sum(len(task["predictions"][0]["result"]) for task in written.values()) >= count


def _wait_for_pictures(page: Page) -> None:
    """The page's own policy forbids what ``wait_for_function`` does."""
    for _ in range(100):
        if page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)"):
            return
        page.wait_for_timeout(100)
    raise AssertionError("the pictures of the contact sheet did not load within ten seconds")


def _use(page: Page, folder: Path, shots: Path) -> dict[str, object]:
    """Walk through the sheet as a reviewer does; what was seen."""
    seen: dict[str, object] = {}
    page.goto((folder / "index.html").as_uri())
    page.screenshot(path=shots / "review-index.png")
    page.click(".bar a >> nth=0")
    seen["first"] = page.url.rpartition("/")[2]
    _wait_for_pictures(page)
    seen["pictures"] = page.evaluate("[...document.images].map((i) => [i.naturalWidth, i.naturalHeight])")
    seen["order"] = page.evaluate("[...document.querySelectorAll('[data-image]')].map((i) => i.dataset.image)")
    page.check("[data-image] >> nth=1")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/found-0002.html")
    page.check("[data-image] >> nth=0")
    seen["count"] = page.inner_text("#count")
    page.screenshot(path=shots / "review-page.png")
    with page.expect_download() as download:
        page.click("#save")
    seen["list"] = Path(download.value.path()).read_text()
    page.goto((folder / "found-0001.html").as_uri())
    seen["kept"] = page.evaluate("[...document.querySelectorAll('[data-image]')].map((i) => i.checked)")
    for name in ("nothing", "failed"):
        page.goto((folder / f"{name}-0001.html").as_uri())
        seen[name] = page.inner_text("main")
    return seen


def test_the_contact_sheet_in_a_browser(tmp_path: Path) -> None:
    values = (200, 180, 160, 140, 0, 1)
    with filled(tmp_path, values, Selection()) as (store, contents):
        writer = ReviewWriter(tmp_path, contents, "Rings", [("Strategy", "none")], identity="e2e", images=None, page=2)
        for item in items(store, contents):
            writer.add(item)
        writer.close()
    ARTIFACTS.mkdir(exist_ok=True)
    messages: list[str] = []
    requests: list[str] = []
    folder = (tmp_path / "review").resolve()
    with open_page(folder.as_uri()) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        seen = _use(page, folder, ARTIFACTS)
    assert messages == []
    assert set(requests) <= {"file", "blob"}
    assert seen["first"] == "found-0001.html"
    assert seen["order"] == ["0/p0.png", "1/p1.png"]
    assert seen["pictures"] == [[64, 48], [64, 48]]
    assert seen["count"] == "2"
    assert seen["list"] == "0/p2.png\n1/p1.png\n"
    assert seen["kept"] == [False, True]
    assert "nothing there" in str(seen["nothing"])
    assert "out of memory" in str(seen["failed"])
