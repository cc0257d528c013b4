"""Undo and verify on 150 predictions of two versions, with people's annotations, a kill -9 and a restored database."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ml_backend.demo.client import TIMEOUT, DemoClient, sign_in
from ml_backend.demo.processes import free_port
from ml_backend.demo.server import LabelStudioServer
from tests.e2e.conftest import LOGS, Login
from tests.e2e.test_runs import CONFIG, PATIENCE, Project, picture

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SIZE = 75
FIRST, SECOND = "a red thing", "a crimson thing"
DATABASE = "label_studio.sqlite3"


@dataclass
class Studio:
    """A Label Studio of the test's own, whose database can be put back to an older state."""

    program: Path
    folder: Path
    port: int
    password: str

    @contextmanager
    def running(self) -> Iterator[LabelStudioServer]:
        server = LabelStudioServer.start(
            self.program,
            folder=self.folder,
            log=LOGS / "label-studio-restored.log",
            port=self.port,
            email="e2e@example.com",
            password=self.password,
        )
        try:
            yield server
        finally:
            server.child.stop()

    def predictions(self) -> dict[int, tuple[int, str]]:
        """Of Label Studio's own database: task and version of each prediction, by its id."""
        with closing(sqlite3.connect(f"file:{self.folder / DATABASE}?mode=ro", uri=True, timeout=30)) as opened:
            rows = opened.execute("select id, task_id, model_version from prediction")
            return {number: (task, version) for number, task, version in rows}


def make(server: LabelStudioServer, login: Login, folder: Path) -> Project:
    project = login.client.create_project("taken back", CONFIG)
    for start in range(0, SIZE, 25):
        files = [(f"n{n:03}.png", (f"n{n:03}.png", picture(n), "image/png")) for n in range(start, start + 25)]
        login.client.json("POST", f"/api/projects/{project}/import", files=files)
    made = Project(login, server, folder, project, [task["id"] for task in login.client.tasks(project)], [])
    made.seen.touch()
    assert len(made.good) == SIZE
    return made


def annotate(login: Login, task: int, prediction: int | None) -> None:
    """A person accepts a prediction, or draws by himself."""
    body: dict[str, Any] = {"result": [], "lead_time": 3.0, "parent_prediction": prediction}
    made = login.client.json("POST", f"/api/tasks/{task}/annotations/", body=body)
    assert made["parent_prediction"] == prediction


def kill_in_the_middle(project: Project, studio: Studio, least: int) -> int:
    """``runs undo 1``, killed once so many predictions are deleted; how many were."""
    before = len(studio.predictions())
    process = project.start("runs", "undo", "1", "--yes")
    limit = time.monotonic() + PATIENCE
    while before - len(studio.predictions()) < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return before - len(studio.predictions())


def test_exactly_the_right_ones_are_gone_or_back(
    label_studio_program: Path, tmp_path: Path, record_property: Any
) -> None:
    studio = Studio(label_studio_program, tmp_path / "studio", free_port(), secrets.token_urlsafe(12))
    data = tmp_path / "backend"
    data.mkdir()
    older = tmp_path / "older.sqlite3"

    with studio.running() as server:
        token = sign_in(server.url, server.email, server.password)
        with DemoClient(server.url, token, timeout=TIMEOUT) as client:
            project = make(server, Login(client, token), data)
        code, _, err = project.to_the_end("annotate", "--project", str(project.id), "--prompt", FIRST)
        assert code == 0, err
    shutil.copyfile(studio.folder / DATABASE, older)  # Label Studio has ended: the file is whole
    firsts = studio.predictions()
    version = project.show("1")["model_version"]
    assert sorted(firsts.values()) == [(task, version) for task in project.good]

    with studio.running() as server, DemoClient(server.url, token, timeout=TIMEOUT) as client:
        project.server, project.login = server, Login(client, token)
        code, _, err = project.to_the_end("annotate", "--project", str(project.id), "--prompt", SECOND)
        assert code == 0, err
        all_of_both = studio.predictions()
        second = project.show("2")["model_version"]
        assert len(all_of_both) == 2 * SIZE
        assert sorted(all_of_both.values()) == sorted((t, v) for t in project.good for v in (version, second))

        by_place = {place: number for number, place in all_of_both.items()}
        mine, others, own, drafted = project.good[:7], project.good[7:11], project.good[11:13], project.good[13]
        for task in mine:
            annotate(project.login, task, by_place[task, version])
        for task in others:
            annotate(project.login, task, by_place[task, second])
        for task in own:
            annotate(project.login, task, None)
        client.json("POST", f"/api/tasks/{drafted}/drafts", body={"result": []})
        stay = {by_place[task, version] for task in (*mine, drafted)}
        doomed = set(firsts) - stay

        deleted = kill_in_the_middle(project, studio, 23)
        record_property("deleted when it was killed", deleted)
        assert 23 <= deleted < len(doomed)
        assert set(all_of_both) - set(studio.predictions()) < doomed
        code, out, err = project.to_the_end("runs", "undo", "1", "--yes")
        assert code == 0, err
        assert "8 stay" in out
        assert studio.predictions() == {n: place for n, place in all_of_both.items() if n not in doomed}
        assert {task["id"]: len(task["annotations"]) for task in client.tasks(project.id) if task["annotations"]} == (
            dict.fromkeys((*mine, *others, *own), 1)
        )
        assert project.show("1")["counts"] | {"done": 8, "skipped": len(doomed)} == project.show("1")["counts"]
        code, out, _ = project.to_the_end("runs", "undo", "1", "--yes")
        assert (code, out.splitlines()[0].split(";")[0]) == (0, "run 1: 0 predictions to delete")

    shutil.copyfile(older, studio.folder / DATABASE)  # as an administrator restores a copy
    assert studio.predictions() == firsts
    with studio.running() as server, DemoClient(server.url, token, timeout=TIMEOUT) as client:
        project.server, project.login = server, Login(client, token)
        code, out, _ = project.to_the_end("runs", "verify", "2")
        assert (code, out.splitlines()[0]) == (1, f"run 2: 0 predictions are in Label Studio, {SIZE} are missing")
        code, out, err = project.to_the_end("runs", "verify", "2", "--push")
        assert code == 0, err
        back = studio.predictions()
        assert {n: place for n, place in back.items() if n in firsts} == firsts
        assert sorted(place for n, place in back.items() if n not in firsts) == [(t, second) for t in project.good]
        code, out, _ = project.to_the_end("runs", "verify", "2")
        assert (code, out.splitlines()[0]) == (0, f"run 2: {SIZE} predictions are in Label Studio, 0 are missing")

        # what the undo had deleted came back with the database, and goes again; a person uses some of it by then
        again = project.good[20:23]
        by_place = {place: number for number, place in back.items()}
        for task in again:
            annotate(project.login, task, by_place[task, version])
        code, out, err = project.to_the_end("runs", "undo", "1", "--yes")
        assert code == 0, err
        left = {by_place[task, version] for task in again}
        assert studio.predictions() == {n: p for n, p in back.items() if n in left or n not in firsts}
