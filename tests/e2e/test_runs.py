"""Batch runs through a real Label Studio, by the real command in processes of its own, which are killed half-way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ml_backend.cli.main import app
from ml_backend.demo.server import LabelStudioServer
from tests.e2e.conftest import ROOT, Login
from tests.support.bad_line import bad_line
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
    '<Label value="Animal"/></PolygonLabels></View>'
)
OTHER_CONFIG = CONFIG.replace("</PolygonLabels>", '<Label value="Plant"/></PolygonLabels>')
RUN_BATCH = 16
PATIENCE = 240


def picture(number: int) -> bytes:
    """Grey with a red box, unlike that of any other number."""
    image = np.full((48, 64, 3), 120, np.uint8)
    left, top = number % 20, number // 20
    image[top : top + 20, left : left + 24] = (230, 10, 10)
    image[0, 0] = (number % 251, number // 251, 77)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@dataclass
class Project:
    """A project of so many uploads, some of them broken, and the folder of a backend that works on it."""

    login: Login
    server: LabelStudioServer
    folder: Path
    id: int
    good: list[int]
    broken: list[int]

    @property
    def seen(self) -> Path:
        return self.folder / "seen.txt"

    def images_seen(self) -> list[str]:
        """One entry per image that went through the models, in all processes; half-written lines do not count."""
        return [line.split()[1] for line in self.seen.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("INT_", "LABEL_STUDIO"))}
        env |= {
            "LABEL_STUDIO_URL": self.server.url,
            "LABEL_STUDIO_API_KEY": self.login.token,
            "INT_DATA_DIR": str(self.folder),
            "INT_RUN_BATCH": str(RUN_BATCH),
            "INT_TEST_SEEN": str(self.seen),
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        command = [sys.executable, "-m", "tests.e2e.quick_backend", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, cwd=ROOT, start_new_session=True)

    def annotate(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return self.start("annotate", "--project", str(self.id), *arguments, **more)

    def to_the_end(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        return ended(self.start(*arguments, **more))

    def versions(self) -> dict[int, list[str]]:
        """The versions of every task's predictions."""
        tasks = self.login.client.tasks(self.id)
        return {task["id"]: sorted(p["model_version"] for p in task["predictions"]) for task in tasks}

    def show(self, run: str = "1", *arguments: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.look("show", run, *arguments)
        return shown

    def look(self, *arguments: str) -> Any:
        """``int-backend runs ... --json``, in this process, for that is quicker."""
        result = CliRunner().invoke(app, ["runs", *arguments, "--json"], env={"INT_DATA_DIR": str(self.folder)})
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def wait_for(self, images: int, process: subprocess.Popen[str]) -> None:
        """Until so many images went through the models."""
        limit = time.monotonic() + PATIENCE
        while len(self.images_seen()) < images:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


Make = Callable[..., Project]


@pytest.fixture
def make(label_studio: LabelStudioServer, login: Login, tmp_path: Path) -> Make:
    def made(size: int, broken: int = 0) -> Project:
        project = login.client.create_project("e2e runs", CONFIG)
        spoiled = {(2 * index + 1) * size // (2 * broken) for index in range(broken)}
        files = [(f"n{n:03}.png", b"this is no image" if n in spoiled else picture(n)) for n in range(size)]
        for start in range(0, size, 50):
            parts = [(name, (name, data, "image/png")) for name, data in files[start : start + 50]]
            login.client.json("POST", f"/api/projects/{project}/import", files=parts)
        tasks = sorted(task["id"] for task in login.client.tasks(project))
        assert len(tasks) == size
        bad = [task for n, task in enumerate(tasks) if n in spoiled]
        place = Project(login, label_studio, tmp_path, project, [t for t in tasks if t not in bad], bad)
        place.seen.touch()
        return place

    return made


@pytest.mark.parametrize(
    ("size", "again"),
    [
        (60, ("runs", "resume", "1")),
        pytest.param(300, ("runs", "resume", "1"), marks=pytest.mark.slow),
        pytest.param(300, ("annotate",), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_loses_nothing(
    make: Make, size: int, again: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    project = make(size, broken=5)
    first = project.annotate(INT_TEST_SECONDS="0.03")
    project.wait_for(size // 2, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = len(project.images_seen())
    len(project.images_seen())
    at_crash = project.show()
    assert at_crash["state"] == "active"
    assert sum(at_crash["counts"].values()) == size
    assert at_crash["counts"]["done"] < size - 5
    if again == ("annotate",):
        again = ("annotate", "--project", str(project.id))
    code, out, err = project.to_the_end(*again)
    assert code == 1, err  # five failed
    assert "5 failed" in out

    shown = project.show()
    assert shown["state"] == "finished"
    assert shown["counts"]["done"] == size - 5
    version = shown["model_version"]
    assert project.versions() == {t: [version] for t in project.good} | {t: [] for t in project.broken}
    assert [record["task"] for record in shown["tasks"]] == project.broken
    assert all("image" in record["reason"] for record in shown["tasks"])
    ids = [record["prediction"] for record in project.show("1", "--state", "done", "--limit", str(size))["tasks"]]
    assert None not in ids
    assert len(set(ids)) == size - 5

    times = Counter(project.images_seen())
    assert len(times) == size - 5
    twice = sum(times.values()) - (size - 5)
    record_property("images_before_the_crash", before)
    record_property("done_before_the_crash", at_crash["counts"]["done"])
    record_property("images_at_the_models_twice", twice)
    assert twice <= RUN_BATCH


def test_ctrl_c_leaves_a_run_that_goes_on(make: Make) -> None:
    project = make(40)
    first = project.annotate(INT_TEST_SECONDS="0.05")
    project.wait_for(10, first)
    os.kill(first.pid, signal.SIGINT)
    code, out, err = ended(first)
    assert code == 130, err
    assert "int-backend runs resume 1" in out
    assert "Traceback" not in err
    shown = project.show()
    assert (shown["state"], shown["why"], shown["workers"]) == ("stopped", "interrupted", 0)
    assert shown["counts"]["leased"] == 0
    assert shown["counts"]["done"] >= 4
    code, out, err = project.to_the_end("runs", "resume", "1")
    assert code == 0, err
    assert project.versions() == {task: [shown["model_version"]] for task in project.good}


def test_two_people_at_once_share_one_run(make: Make) -> None:
    project = make(40)
    both = [project.annotate(INT_TEST_SECONDS="0.05") for _ in range(2)]
    ends = [ended(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sorted("joined" in out for _, out, _ in ends) == [False, True]
    shown = project.show()
    assert shown["counts"]["done"] == 40
    assert project.versions() == {task: [shown["model_version"]] for task in project.good}
    assert [run["id"] for run in project.look("list")] == ["1"]


def test_two_prompts_at_once_are_two_runs(make: Make) -> None:
    project = make(20)
    both = [project.annotate("--prompt", prompt) for prompt in ("a red thing", "a crimson thing")]
    ends = [ended(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    versions = sorted(project.show(run)["model_version"] for run in ("1", "2"))
    assert len(set(versions)) == 2
    assert project.versions() == dict.fromkeys(project.good, versions)


def test_a_changed_labeling_config_stops_the_run(make: Make) -> None:
    project = make(40)  # three batches of four are at work when it changes
    call = project.login.client.json
    first = project.annotate(INT_TEST_SECONDS="0.3", INT_RUN_BATCH="4")
    project.wait_for(4, first)
    call("PATCH", f"/api/projects/{project.id}", body={"label_config": OTHER_CONFIG})
    code, _out, err = ended(first)
    assert code == 1, err
    shown = project.show()
    assert shown["state"] == "stopped"
    assert "labeling config was changed" in shown["why"]
    done = {t for t, versions in project.versions().items() if versions == [shown["model_version"]]}
    assert 4 <= len(done) == shown["counts"]["done"] < 40

    code, _, err = project.to_the_end("runs", "resume", "1")
    assert code == 2
    assert "no longer that of run 1" in err

    code, _, err = project.to_the_end("annotate", "--project", str(project.id))  # a run of the new config
    assert code == 0, err
    second = project.show("2")["model_version"]
    assert all(second in versions for versions in project.versions().values())

    call("PATCH", f"/api/projects/{project.id}", body={"label_config": CONFIG})
    code, _, err = project.to_the_end("runs", "resume", "1")
    assert code == 0, err
    both = sorted([shown["model_version"], second])
    assert project.versions() == dict.fromkeys(project.good, both)


def test_what_people_did_is_left_alone(make: Make) -> None:
    project = make(8)
    call = project.login.client.json
    annotated, skipped, drafted, deleted, *rest = project.good
    call("POST", f"/api/tasks/{annotated}/annotations/", body={"result": []})
    call("POST", f"/api/tasks/{skipped}/annotations/", body={"result": [], "was_cancelled": True})
    call("POST", f"/api/tasks/{drafted}/drafts", body={"result": []})
    project.login.client.request("DELETE", f"/api/tasks/{deleted}/")
    code, out, err = project.to_the_end("annotate", "--project", str(project.id), "--set-model-version")
    assert code == 0, err
    shown = project.show("1", "--state", "skipped")
    assert (shown["counts"]["done"], shown["counts"]["skipped"]) == (4, 1)
    assert [(r["task"], r["reason"]) for r in shown["tasks"]] == [
        (drafted, "left alone: a person has begun to annotate it")
    ]
    version = shown["model_version"]
    assert project.versions() == {annotated: [], skipped: [], drafted: []} | {task: [version] for task in rest}
    assert call("GET", f"/api/projects/{project.id}")["model_version"] == version

    code, out, err = project.to_the_end("annotate", "--project", str(project.id), "--only-missing", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "1 tasks would be annotated")  # the draft: only known when looked at
    items = [{"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": rest[0]}]
    data = {"title": "late ones", "filters": {"conjunction": "and", "items": items}}
    view = call("POST", "/api/dm/views/", body={"project": project.id, "data": data})["id"]
    code, out, err = project.to_the_end("annotate", "--project", str(project.id), "--view", str(view), "--dry-run")
    assert (code, out.splitlines()[0]) == (0, f"{len(rest) - 1} tasks would be annotated")
    code, out, err = project.to_the_end("annotate", "--project", str(project.id), "--include-annotated")
    assert code == 0, err
    assert project.show("2")["counts"] == {**dict.fromkeys(shown["counts"], 0), "done": 3, "skipped": 4}
    assert project.versions() == {task: [version] for task in (annotated, skipped, drafted, *rest)}
    assert len(call("GET", f"/api/tasks/{annotated}/annotations/")) == 1


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_label_studio_goes_away_and_answers_by_halves(make: Make, seconds: int) -> None:
    project = make(60)
    with bad_line(project.server.url) as line:
        line.faults = ["429", "500", "half", "lost", "502"]
        process = project.annotate(INT_TEST_SECONDS="0.1", LABEL_STUDIO_URL=line.url)
        project.wait_for(20, process)
        line.down = True
        time.sleep(seconds)
        line.down = False
        code, _, err = ended(process)
        refused = line.refused
    assert code == 0, err
    assert refused > 0
    assert line.faults == []
    assert err.count("waiting for it") >= 2
    assert "is back" in err
    shown = project.show()
    assert shown["counts"]["done"] == 60
    assert project.versions() == {task: [shown["model_version"]] for task in project.good}


def test_with_redis_the_command_only_watches_and_workers_do_the_work(make: Make, tmp_path: Path) -> None:
    project = make(24, broken=1)
    with redis_server(tmp_path / "redis") as redis:
        code, out, err = ended(project.annotate("--detach", REDIS_URL=redis.url))
        assert code == 0, err
        assert "int-backend runs show 1" in out
        assert project.show()["counts"]["pending"] == 24
        watching = project.annotate(REDIS_URL=redis.url)
        worker = project.start("worker", REDIS_URL=redis.url)
        try:
            code, out, err = ended(watching)
        finally:
            os.kill(worker.pid, signal.SIGTERM)
            ended(worker)
    assert code == 1, err  # one failed
    assert "joined it" in out
    assert "run 1 finished: 23 done, 1 failed" in out
    version = project.show()["model_version"]
    assert project.versions() == {t: [version] for t in project.good} | {t: [] for t in project.broken}
    assert {line.split()[0] for line in project.seen.read_text().splitlines()} == {str(worker.pid)}
