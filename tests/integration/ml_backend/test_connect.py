"""``int-backend connect`` against the stand-in for Label Studio: what it sends, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.connect.command import run
from ml_backend.connect.plan import Wanted
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.settings import Settings
from ml_backend.storage.audit import Audit, operator
from ml_backend.storage.database import Database, StoreError
from tests.integration.ml_backend.doctoring import HERE, World
from tests.support.label_studio import PAT, label_studio


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with label_studio(World(folder=tmp_path)) as made:
        yield made


def connect(world: World, wanted: Wanted, *, sure: bool = True, **options: Any) -> tuple[int, list[str]]:
    told: list[str] = []
    given: dict[str, Any] = {"label_studio_url": world.url, "label_studio_api_key": PAT, "data_dir": world.folder}
    settings = Settings(**given | world.settings)
    options = {"dry_run": False, "as_json": False} | options
    status = run(settings, int(world.project["id"]), wanted, confirm=lambda _: sure, tell=told.append, **options)
    return status, told


def test_a_bare_project_is_connected_in_one_step(world: World) -> None:
    world.project |= {"label_config": "<View></View>", "model_version": "", "show_collab_predictions": False}
    world.connections.clear()
    world.webhooks.clear()
    status, told = connect(world, Wanted("polyp", "brush", smart=True, backend=HERE))
    assert status == 0
    assert '<BrushLabels name="mask" toName="image">' in world.project["label_config"]
    assert '<KeyPointLabels name="click" toName="image" smart="true"' in world.project["label_config"]
    (row,) = world.connections
    assert (row["url"], row["extra_params"], row["is_interactive"]) == (HERE, "polyp", True)
    (hook,) = world.webhooks
    assert hook["url"] == f"{HERE}/webhook"
    assert world.project["show_collab_predictions"] is True
    assert world.project["model_version"] == row["title"]
    assert any(line.strip().startswith("+<BrushLabels") for line in told)
    assert told[-1].startswith("done: Label Studio reaches")
    count = len(world.patches)
    assert connect(world, Wanted("polyp", "brush", smart=True, backend=HERE))[0] == 0
    assert len(world.patches) == count


def log(world: World) -> list[tuple[str, str, str]]:
    database = Database.of(Settings(data_dir=world.folder))
    try:
        return [(entry.action, entry.what, entry.who) for entry in Audit(database).entries(9)]
    finally:
        database.close()


def test_who_connected_what_is_in_the_audit_log(world: World) -> None:
    world.connections.clear()
    wanted = Wanted("polyp", smart=True, backend=HERE)
    connect(world, wanted)
    connect(world, wanted)  # nothing is left to do
    assert log(world) == [("connect", "project 1: polyp", operator()[0])]


def test_without_the_log_nothing_is_changed(world: World) -> None:
    world.connections.clear()
    (world.folder / "file").write_text("")
    world.settings["data_dir"] = world.folder / "file"
    with pytest.raises(StoreError, match="set INT_DATA_DIR"):
        connect(world, Wanted("polyp", backend=HERE))
    assert (world.connections, world.patches) == ([], [])


@pytest.mark.parametrize("refusal", [{"sure": False}, {"dry_run": True}])
def test_nothing_is_changed_before_a_person_agrees(world: World, refusal: dict[str, Any]) -> None:
    world.connections.clear()
    status, told = connect(world, Wanted("polyp", smart=True), **refusal)
    assert log(world) == []
    assert status == 0
    assert world.patches == []
    assert any("connect the backend at http://localhost:9090" in line for line in told)


def test_a_connection_keeps_what_is_not_asked_for(world: World) -> None:
    world.row["extra_params"] = {"prompt": "frog", "min_score": 0.4}
    connect(world, Wanted("polyp"))
    assert world.row["extra_params"] == {"prompt": "polyp", "min_score": 0.4}
    assert world.row["is_interactive"] is False


def test_basic_auth_and_the_webhooks_secret_are_sent_and_not_shown(world: World) -> None:
    world.settings = {"basic_auth_user": "ls", "basic_auth_pass": "geheim", "webhook_secret": "verschlossen"}
    world.webhooks[0]["headers"] = {"X-Team": "a"}
    status, told = connect(world, Wanted(), as_json=True)
    assert status == 0
    assert (world.row["auth_method"], world.row["basic_auth_pass"]) == ("BASIC_AUTH", "geheim")
    assert world.webhooks[0]["headers"] == {"X-Team": "a", "X-Webhook-Secret": "verschlossen"}
    shown = "".join(told)
    assert "geheim" not in shown
    assert "verschlossen" not in shown
    assert json.loads(shown)["plans"][1]["changes"][0]["what"].startswith("send the webhook's secret")


def test_a_label_with_a_prompt_of_its_own_is_named(world: World) -> None:
    config = world.project["label_config"].replace('value="Animal"', 'value="Animal" model_prompt="frog"')
    world.project["label_config"] = config
    _, told = connect(world, Wanted("polyp"))
    assert any("keep a prompt of their own" in line and "Animal" in line for line in told)


def test_another_backend_before_ours_is_left_alone_and_named(world: World) -> None:
    other = world.row | {"id": 9, "title": "SAM", "url": "http://sam:9090", "model_version": "sam-1"}
    world.connections.insert(0, other)
    _, told = connect(world, Wanted("polyp"))
    assert any("first connection only, 'SAM'" in line for line in told)
    assert world.connections[0]["extra_params"] == other["extra_params"]


def test_an_unreachable_backend_is_said(world: World) -> None:
    world.row.update(state="DI", error_message="connection refused")
    status, told = connect(world, Wanted())
    assert status == 1
    assert "connection refused" in told[-1]
    assert "int-backend serve" in told[-1]


def test_without_access_the_settings_are_named(world: World) -> None:
    with pytest.raises(ValueError, match="LABEL_STUDIO_API_KEY"):
        run(
            Settings(data_dir=world.folder),
            1,
            Wanted(),
            dry_run=True,
            as_json=False,
            confirm=lambda _: False,
            tell=lambda _: None,
        )


def test_a_project_that_is_not_there_is_an_error(world: World) -> None:
    world.project["id"] = 77
    with pytest.raises(LabelStudioError, match="404"):
        run(
            Settings(label_studio_url=world.url, label_studio_api_key=PAT, data_dir=world.folder),  # type: ignore[arg-type]
            5,
            Wanted(),
            dry_run=True,
            as_json=False,
            confirm=lambda _: False,
            tell=lambda _: None,
        )


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ({"$undefined$": "/data/upload/1/a.png"}, "$image"),
        ({"patient": "x", "scan": "https://a.example/b.PNG?c=d"}, "$scan"),
        ({"name": "x", "image": "s3://bucket/key"}, "$image"),
        ({"slice": "s3://bucket/key", "id": 7}, "$slice"),
        ({}, "$image"),
    ],
)
def test_the_tasks_field_with_the_image_is_found(world: World, data: dict[str, Any], value: str) -> None:
    world.project["label_config"] = ""
    world.tasks = {5: {"data": data}}
    connect(world, Wanted("polyp"))
    assert f'value="{value}"' in world.project["label_config"]
