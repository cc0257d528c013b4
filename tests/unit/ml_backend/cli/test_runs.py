"""``int-backend runs`` and ``annotate`` on the command line, as far as they need no Label Studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ml_backend.cli.main import app
from ml_backend.runs.ledger import Ledger
from ml_backend.runs.types import RunRequest, RunSpec, RunState, TaskResult, TaskState
from ml_backend.storage.database import Database

ASKED = RunRequest(project=7, view=3, limit=10)
SPEC = RunSpec(ASKED, "<View/>", None, "int-v-1", "a [red] cat", "int", "hash")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", "REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INT_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def half_done(folder: Path) -> Path:
    """Run 1: of four tasks one is done, one abstained and one failed."""
    database = Database.in_folder(folder)
    ledger = Ledger(database)
    run = ledger.create(SPEC, [1, 2, 3, 4])
    lease = ledger.lease(run.id, "host:1:x", 3)
    assert lease is not None
    results = [
        TaskResult(1, TaskState.DONE, 0.75, seconds=1.0, prediction=9),
        TaskResult(2, TaskState.ABSTAINED, 0.0, "nothing found"),
        TaskResult(3, TaskState.FAILED, reason="no [image] at all"),
    ]
    assert len(ledger.finish(lease, results)) == 3
    database.close()
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def state(folder: Path) -> RunState:
    database = Database.in_folder(folder)
    try:
        return Ledger(database).get("1").state
    finally:
        database.close()


def test_list_and_show_say_all(half_done: Path) -> None:
    listed = call("runs", "list")
    assert listed.exit_code == 0, listed.output
    assert "1 pending, 1 done, 1 abstained, 1 failed" in " ".join(listed.stdout.split())
    shown = call("runs", "show", "1").stdout
    assert "looks for   a [red] cat" in shown
    assert "takes       view 3, at most 10" in shown
    assert "task 3 failed: no [image] at all" in shown
    assert "task 1 done, score 0.750" in call("runs", "show", "1", "--state", "done").stdout


def test_json_is_json_and_nothing_else(half_done: Path) -> None:
    (run,) = json.loads(call("runs", "list", "--project", "7", "--json").stdout)
    assert run["counts"] == {"pending": 1, "leased": 0, "done": 1, "abstained": 1, "failed": 1, "skipped": 0}
    assert json.loads(call("runs", "list", "--project", "8", "--json").stdout) == []
    shown = json.loads(call("runs", "show", "1", "--json", "--state", "abstained").stdout)
    assert [(task["task"], task["state"], task["reason"]) for task in shown["tasks"]] == [
        (2, "abstained", "nothing found")
    ]


def test_cancel(half_done: Path) -> None:
    cancelled = call("runs", "cancel", "1")
    assert (cancelled.exit_code, state(half_done)) == (0, RunState.CANCELLED)
    assert "int-backend runs resume 1" in cancelled.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("runs", "show", "99"), 1, "there is no run '99'"),
        (("runs", "cancel", "x"), 1, "there is no run 'x'"),
        (("annotate", "--project", "7"), 2, "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"),
        (("runs", "resume", "1"), 2, "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"),
        (("annotate",), 2, "--project"),
        (("annotate", "--project", "7", "--limit", "0"), 2, "--limit"),
        (("annotate", "--project", "7", "--profile", "nothing-like-it"), 2, "nothing-like-it"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_label_studio_that_is_not_there_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    result = call("annotate", "--project", "7")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
