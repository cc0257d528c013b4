"""The demo's check, as a person runs it: status 0, every sample annotated, nothing left running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ml_backend.demo.samples import samples_folder
from ml_backend.labelstudio.regions.decode import decode_region
from tests.e2e.browser import open_page
from tests.e2e.conftest import ARTIFACTS, ROOT
from tests.e2e.pictures import deepest
from tests.e2e.walk import Walk

pytestmark = pytest.mark.e2e


def _processes_with(marker: str) -> list[str]:
    """Command lines and working folders of the living processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cwd = str((entry / "cwd").readlink())
            except OSError:
                continue
            if marker in text or marker in cwd:
                found.append(f"{entry.name}: {text}")
    return found


@contextmanager
def _demo(program: Path, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo; told to stop at the end, so that it stops its own children, whatever the test did."""
    places = ["--folder", str(folder), "--label-studio", str(program.parent.parent)]
    command = [sys.executable, "-m", "ml_backend.cli", "demo", *places, *(options or ("--check",))]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.communicate(timeout=60)


def _wait_until_started(demo: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not _processes_with(str(folder / "label-studio")):  # the server's working folder
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_demo_check_annotates_every_sample_and_leaves_nothing(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as demo:
        output, _ = demo.communicate(timeout=1500)
    assert demo.returncode == 0, output
    assert "missing" not in output
    assert _processes_with(str(folder)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(label_studio_program: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as demo:
        _wait_until_started(demo, folder)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, output
    assert _processes_with(str(folder)) == []


def test_a_second_demo_in_the_same_folder_is_refused(label_studio_program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with _demo(label_studio_program, folder) as first:
        _wait_until_started(first, folder)
        with _demo(label_studio_program, folder) as second:
            output, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "another demo runs" in output
        assert first.poll() is None


def _few_samples(folder: Path, names: tuple[str, ...]) -> Path:
    """A folder of samples with these files of the bundled ones."""
    folder.mkdir()
    entries = json.loads((samples_folder() / "samples.json").read_text())
    kept = [entry for entry in entries if entry["file"] in names]
    for entry in kept:
        for file in (entry["file"], entry["mask"]):
            shutil.copy(samples_folder() / file, folder / file)
    (folder / "samples.json").write_text(json.dumps(kept))
    return folder


def _until_it_stays(demo: subprocess.Popen[str]) -> str:
    """What the demo printed up to its last line, which it prints when it is there to be used."""
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        if "Ctrl-C stops everything" in line:
            return printed
    raise AssertionError(printed)


def _told(printed: str, name: str) -> str:
    found = re.search(rf"^  {name} +(\S+)", printed, re.MULTILINE)
    assert found, printed
    return found[1]


@pytest.mark.slow
def test_from_the_demos_end_to_a_corrected_mask_in_four_clicks(label_studio_program: Path, tmp_path: Path) -> None:
    """The printed address is pasted. The login counts: a click into its first field, then Tab and Enter."""
    samples = _few_samples(tmp_path / "samples", ("camouflaged-animal-06.png", "camouflaged-animal-08.png"))
    with _demo(label_studio_program, tmp_path / "demo", "--samples", str(samples)) as demo:
        printed = _until_it_stays(demo)
        address, server = _told(printed, "begin here"), _told(printed, "Label Studio")
        assert _told(printed, "workbench") == f"{_told(printed, 'backend')}/projects"
        project, view, task = (int(number) for number in re.findall(r"\d+", address.removeprefix(server)))
        with open_page(server) as page:
            walk = Walk(page, ARTIFACTS / "demo", "From make demo's end to a corrected mask")
            with walk.step("open the address"):
                page.goto(address)
            with walk.step("log in"):
                walk.type(page.locator("input[name=email]"), _told(printed, "login"), "login")
                walk.key("Tab")
                walk.type(page.locator("input[name=password]"), _told(printed, "password"), "password", click=False)
                walk.key("Enter")
                page.wait_for_function(
                    "() => [...document.querySelectorAll('img[alt=image]')].some(i => i.naturalWidth > 0)"
                )
                page.get_by_label("Submit current annotation").wait_for()
            (prediction,) = page.request.get(f"{server}/api/predictions?task={task}").json()
            masks = [decode_region(region) for region in prediction["result"]]
            largest = max(range(len(masks)), key=lambda i: int(masks[i].sum()))
            picture = page.locator("img[alt=image]").bounding_box()
            assert picture is not None
            left, top, width, height = (picture[side] for side in ("x", "y", "width", "height"))

            def at(x: float, y: float) -> tuple[float, float]:
                return left + x * width, top + y * height

            with walk.step("correct a mask"):
                others = [mask for i, mask in enumerate(masks) if i != largest]
                walk.point(at(*deepest(masks[largest], others)), "the region")
                page.get_by_text("View region details").wait_for(state="detached")
                lowest = max(prediction["result"][largest]["value"]["points"], key=lambda point: point[1])
                x, y = lowest[0] / 100, lowest[1] / 100
                walk.drag(at(x, y), at(x, y + 0.1), "one of its points")
            with walk.step("submit"):
                with page.expect_response(
                    lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
                ) as saved:
                    walk.click(page.get_by_label("Submit current annotation"), "Submit")
                assert saved.value.status == 201, saved.value.text()
            (annotation,) = page.request.get(f"{server}/api/tasks/{task}/annotations/").json()
            rows = page.request.get(f"{server}/api/tasks?view={view}&project={project}").json()["tasks"]
            with walk.step("the view by doubt"):
                page.goto(f"{server}/projects/{project}/data?tab={view}")
                page.get_by_test_id("table-row").first.wait_for()
                page.wait_for_timeout(1000)
    drawn = [region["value"]["points"] for region in annotation["result"]]
    proposed = [region["value"]["points"] for region in prediction["result"]]
    moved = [i for i, (now, then) in enumerate(zip(drawn, proposed, strict=True)) if not np.allclose(now, then)]
    assert moved == [largest]
    assert np.sum(~np.isclose(drawn[largest], proposed[largest]).all(axis=1)) == 1
    assert walk.clicks <= 4, walk.table()
    scores = [row["predictions_score"] for row in rows]
    assert len(scores) == 2
    assert scores == sorted(scores)
