"""`int-backend doctor` against a stub of Label Studio over a real socket: broken situations, diagnoses, remedies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from ml_backend.cli.main import app
from ml_backend.demo.processes import free_port
from ml_backend.doctor import local
from ml_backend.doctor.command import run
from ml_backend.doctor.diagnosis import Diagnosis, Level, ok, problem, warning
from ml_backend.settings import Settings
from ml_backend.storage.audit import Audit, operator
from ml_backend.storage.database import Database, StoreError
from tests.integration.ml_backend.doctoring import GPU, VERSION, World, write_profile
from tests.support.harness import POLYGONS, backend, fake_jwt
from tests.support.label_studio import PAT, label_studio

Break = Callable[[World], Any]
P, W = Level.PROBLEM, Level.WARNING


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with label_studio(World(folder=tmp_path)) as well:
        yield well


def sick(diagnoses: list[Diagnosis]) -> list[Diagnosis]:
    return [diagnosis for diagnosis in diagnoses if diagnosis.level is not Level.OK]


def row(**changes: Any) -> Break:
    return lambda world: world.row.update(changes)


def project(**changes: Any) -> Break:
    return lambda world: world.project.update(changes)


def setting(**changes: Any) -> Break:
    return lambda world: world.settings.update(changes)


def config(inner: str) -> Break:
    return project(label_config=f'<View><Image name="image" value="$image"/>{inner}</View>')


def task(address: Any, **data: Any) -> Break:
    return lambda world: world.tasks[5].update(data=data or {"image": address})


def legacy(world: World) -> None:
    world.settings["label_studio_api_key"] = "6746ca316cca1452" * 2 + "6746ca31"


def half_a_token(world: World) -> None:
    world.settings["label_studio_api_key"] = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ0b2tl"


def two(*breaks: Break) -> Break:
    return lambda world: [change(world) for change in breaks]


def needs(memory_gb: float, *cards: dict[str, Any]) -> Break:
    return lambda world: (write_profile(world.folder, memory_gb), world.cards.extend(cards))


def other_first(world: World) -> None:
    world.connections.insert(0, {**world.row, "id": 0, "title": "YOLO", "model_version": "0.0.1"})


def other_last(world: World) -> None:
    world.connections.append({**world.row, "id": 9, "title": "YOLO", "model_version": "0.0.1"})


def fetch_from(world: World) -> None:
    world.names["gpu.internal"] = ["10.1.2.3"]
    world.row.update(state="DI", url="http://gpu.internal:9090")


SITUATIONS: dict[str, tuple[Break, str, Level, str, str]] = {
    # --- Label Studio and the token
    "no address": (setting(label_studio_url=""), "label studio", P, "No address", "LABEL_STUDIO_URL"),
    "nobody there": (
        lambda w: w.settings.update(label_studio_url=f"http://127.0.0.1:{free_port()}"),
        "label studio", P, "cannot be reached", "check LABEL_STUDIO_URL",
    ),
    "another service": (
        lambda w: w.release(b"<html>hi"), "label studio", P, "not as Label Studio", "sub-path",
    ),
    "another JSON service": (
        lambda w: w.release({"a": 1}), "label studio", P, "not as Label Studio", "sub-path",
    ),
    "wrong sub-path": (
        lambda w: w.settings.update(label_studio_url=f"{w.url}/ls"),
        "label studio", P, "answers 404", "sub-path",
    ),
    "redirect to https": (
        lambda w: w.redirects.update({"/api/version": "https://ls.example.com/api/version?secret=1"}),
        "label studio", P, "https://ls.example.com/api/version,", "LABEL_STUDIO_URL",
    ),
    "no token": (setting(label_studio_api_key=None), "token", P, "No token", "Personal Access Token"),
    "token copied by half": (half_a_token, "token", P, "of which a part is missing", "copy it whole"),
    "legacy token refused": (legacy, "token", P, "legacy token (401)", "set LABEL_STUDIO_API_KEY to a personal access"),
    "revoked token": (
        lambda w: setattr(w, "refresh", "another"), "token", P, "revoked or has expired", "make a new one",
    ),
    "expired token": (
        setting(label_studio_api_key=fake_jwt(token_type="refresh", exp=1.0)),
        "token", P, "has expired", "make a personal",
    ),
    "access token": (
        two(setting(label_studio_api_key=fake_jwt(token_type="access", exp=9e9)), lambda w: w.valid.clear()),
        "token", W, "short-lived", "personal access token",
    ),
    # --- the project and its connection
    "no such project": (
        lambda w: w.files.update({"/api/projects": b'{"results": []}'}), "project", W, "no project", "make",
    ),
    "several projects": (lambda w: w.others.append({"id": 2, "title": "Cats"}), "project", W, "2 'Cats'", "--project"),
    "not connected": (
        lambda w: w.connections.clear(),
        "connection", P, "no connection", "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false",
    ),
    "other backend only": (row(title="YOLO", model_version="0.0.1"), "connection", P, "'YOLO'", "Connect Model"),
    "not the first": (other_first, "connection", P, "first connection only, 'YOLO'", "delete the other"),
    "disconnected": (row(state="DI"), "connection", P, "cannot reach http://127.0.0.1:9090", "int-backend serve"),
    "disconnected, private": (row(state="DI"), "address", W, "403 reserved network", "BANNED_SUBNETS=false"),
    "disconnected, private name": (fetch_from, "address", W, "gpu.internal", "BANNED_SUBNETS=false"),
    "setup failed": (row(state="ER", error_message="500 Server Error"), "connection", P, "500 Server Error", "/status"),
    "login missing": (
        setting(basic_auth_user="u", basic_auth_pass="p"), "connection", P, "has none", "BASIC_AUTH_USER",
    ),
    "login of somebody else": (
        two(setting(basic_auth_user="u", basic_auth_pass="p"), row(auth_method="BASIC_AUTH", basic_auth_user="v")),
        "connection", P, "another name", "BASIC_AUTH_PASS",
    ),
    "webhook was refused": (lambda w: w.webhooks.clear(), "address", W, "ML_BLOCK_LOCAL_IP", "make it again"),
    "webhook off": (lambda w: w.webhooks[0].update(is_active=False), "address", W, "switched off", "switch it on"),
    "webhook without secret": (setting(webhook_secret="s"), "address", W, "does not send", "X-Webhook-Secret"),
    # --- what the project shows
    "prelabels off": (project(show_collab_predictions=False), "predictions", P, "does not show", "--fix"),
    "no version chosen": (project(model_version=""), "predictions", P, "no model version", "'INT'"),
    "other version chosen": (project(model_version="old-1"), "predictions", W, "of 'old-1'", "choose 'INT'"),
    "uncertainty": (project(sampling="Uncertainty sampling"), "sampling", W, "random", VERSION),
    # --- labeling config
    "nothing to fill": (
        config('<Choices name="c" toName="image"><Choice value="a"/></Choices>'),
        "labeling config", P, "cannot be pre-annotated", "PolygonLabels",
    ),
    "no XML": (project(label_config="<View>"), "labeling config", P, "not valid XML", "correct it in Settings"),
    "label without control": (
        config('<BrushLabels name="b" toName="video"><Label value="A"/></BrushLabels>'
               '<PolygonLabels name="l" toName="image"><Label value="A"/></PolygonLabels>'),
        "labeling config", W, "names no image", "correct it in Settings",
    ),
    "bad value": (
        project(label_config=POLYGONS.replace("toName", 'model_epsilon="-1" toName')),
        "labeling config", W, " = '-1' in <... name='label'>", "docs/settings.md",
    ),
    "misspelt attribute": (
        project(label_config=POLYGONS.replace("<Label ", '<Label model_promt="frog" ')),
        "labeling config", W, "model_promt on <Label value='Animal'>", "docs/settings.md",
    ),
    "broken extra params": (row(extra_params='{"prompt":'), "labeling config", W, "not valid", "plain text, or JSON"),
    "no prompt": (
        two(config('<Polygon name="p" toName="image"/>'), row(extra_params=None)),
        "labeling config", P, "no prompt", "model_prompt",
    ),
    "smart tools without clicks": (
        project(label_config=POLYGONS.replace("<Poly", '<KeyPointLabels smart="true" name="k" toName="image"/><Poly')),
        "clicks", W, "smart tools (KeyPointLabels)", "interactive preannotations",
    ),
    # --- the sample image
    "no tasks": (lambda w: w.tasks.clear(), "sample image", P, "no tasks", "import images"),
    "no image field": (task("", text="hi"), "sample image", P, "Step 2", "import tasks with that field"),
    "file deleted": (task("/data/upload/1/gone.png"), "sample image", P, "Step 3", "deleted"),
    "local files off": (
        task("/data/local-files/?d=a/b.png"), "sample image", P, "(local file)", "deleted",
    ),
    "private image host": (task("http://10.9.8.7/a.png"), "sample image", P, "may not come from", "INT_ALLOWED_HOSTS"),
    "odd scheme": (task("ftp://x/a.png"), "sample image", P, "may not come from ftp://x/a.png", "upload"),
    "no picture": (
        lambda w: w.files.update({"/data/upload/1/red.png": b"<html>"}), "sample image", P, "Step 4", "JPEG",
    ),
    "picture too large": (setting(max_image_pixels=100), "sample image", P, "Step 4", "INT_MAX_IMAGE_PIXELS"),
    # --- our own side
    "data folder": (
        lambda w: w.settings.update(data_dir=w.folder / "tiny.toml" / "data"),
        "settings", P, "cannot be written", "INT_DATA_DIR",
    ),
    "deadline": (setting(deadline=120.0), "settings", W, "120 s", "e.g. 80"),
    "not running": (lambda w: None, "backend", W, "does not answer", "int-backend serve"),
    "no such profile": (setting(profile="huge"), "profile", P, "no profile 'huge'", "use one of"),
    "no such strategy": (setting(strategy="magic"), "profile", P, "no strategy 'magic'", "choose one of"),
    "weights gone": (
        lambda w: (w.folder / "vlm" / "model.safetensors").unlink(), "weights", P, "vlm: ", "INT_PROFILE_OVERRIDES",
    ),
    "weights empty": (
        lambda w: (w.folder / "vlm" / "model.safetensors").write_bytes(b""), "weights", P, "has no weights", "vlm.id",
    ),
    "no configuration": (
        lambda w: (w.folder / "detector" / "config.json").unlink(), "weights", P, "no config.json", "save_pretrained",
    ),
    "a shard is missing": (
        lambda w: (w.folder / "vlm" / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model.safetensors", "b": "m-2.safetensors"}})
        ),
        "weights", P, "lacks 1 of 2 files of weights, e.g. m-2.safetensors", "save_pretrained",
    ),
    "weights to download": (
        setting(profile_overrides={"vlm.id": "nobody/no-such-model"}),
        "weights", W, "vlm: nobody/no-such-model@main is not on the disk", "hf download nobody/no-such-model",
    ),
    "card too small": (needs(44.0, GPU | {"total_gb": 16.0}), "memory", P, "needs 44 GB, and H100 has 16.0", "smaller"),
    "card in use": (needs(44.0, GPU | {"free_gb": 3.0}), "memory", W, "3.0 GB of it free", "stop what does"),
    "no card": (needs(8.0), "memory", W, "none is in use", "INT_DEVICE=cuda"),
    "memory too small": (needs(44.0), "memory", P, "this machine has 16.0 GB", "smaller profile"),
    "no such card": (
        two(needs(8.0, GPU), setting(device="cuda:1")), "memory", P, "has 1 CUDA cards", "INT_DEVICE=auto",
    ),
    "no torch": (lambda w: setattr(w, "probe_fails", "No module named 'torch'"), "memory", P, "'torch'", "reinstall"),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_broken_situation_has_its_diagnosis_and_its_remedy(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    change, check, level, text, remedy = SITUATIONS[name]
    change(world)
    found = world.look()
    fitting = [f for f in found if f.check == check and f.level is level and text in f.text and remedy in f.remedy]
    assert len(fitting) == 1, sick(found)


def test_a_healthy_project_gets_no_complaint(world: World) -> None:
    with backend(world.folder / "data") as own_backend:
        world.settings["port"] = own_backend.client.base_url.port
        found = world.look()
    assert sick(found) == []
    said = {diagnosis.check: diagnosis.text for diagnosis in found}
    assert set(said) == {
        "settings", "backend", "weights", "memory", "label studio", "token", "project", "connection", "address",
        "labeling config", "predictions", "sample image",
    }  # fmt: skip
    assert "personal access token of e2e@example.com" in said["token"]
    assert "80 x 60 pixels" in said["sample image"]
    assert "'camouflaged animal' (from the extra params)" in said["labeling config"]
    assert world.patches == []


def test_models_that_cannot_be_loaded_are_told_with_their_reason(world: World) -> None:
    def load() -> Any:
        raise RuntimeError("there are no weights of the role 'vlm' at /x; put them there")

    with backend(world.folder / "data", load) as own_backend:
        world.settings["port"] = own_backend.client.base_url.port
        for _ in range(200):
            if own_backend.client.get("/health").json()["models"] == "failed":
                break
        found = [f for f in world.look() if f.check == "backend"]
    assert found[0].level is P
    assert "no weights of the role 'vlm'" in found[0].text


def test_smart_tools_with_an_interactive_connection_are_well(world: World) -> None:
    world.project["label_config"] = POLYGONS.replace('name="label"', 'smart="true" name="label"')
    world.row["is_interactive"] = True
    assert {diagnosis.check: diagnosis.level for diagnosis in world.look()}["clicks"] is Level.OK


@pytest.mark.parametrize(("password", "level"), [("right", Level.OK), ("wrong", W)])
def test_the_doctor_logs_in_to_the_backend(world: World, password: str, level: Level) -> None:
    with backend(world.folder / "data", basic_auth_user="u", basic_auth_pass="right") as own_backend:
        port = own_backend.client.base_url.port
        world.settings.update(port=port, basic_auth_user="u", basic_auth_pass=password)
        (diagnosis,) = [f for f in world.look() if f.check == "backend"]
    assert diagnosis.level is level
    assert "right" not in diagnosis.text + diagnosis.remedy


def test_fix_changes_only_what_is_wrong(world: World) -> None:
    world.project.update(show_collab_predictions=False, model_version="")
    found = world.look(fix=True)
    assert world.patches == [{"path": "/api/projects/1", "show_collab_predictions": True, "model_version": "INT"}]
    assert [f.level for f in found if f.check == "predictions"] == [Level.OK]


def test_who_had_what_mended_is_in_the_audit_log(world: World) -> None:
    world.look(fix=True)  # there is nothing to mend
    world.project.update(show_collab_predictions=False)
    world.look(fix=True)
    database = Database.of(Settings(data_dir=world.folder))
    try:
        (entry,) = Audit(database).entries(9)
    finally:
        database.close()
    assert (entry.action, entry.who, entry.place) == ("fix", *operator())
    assert entry.what.startswith("project 1: ")
    assert "predictions" in entry.what


def test_without_the_log_nothing_is_mended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("the database is locked; try again later")

    monkeypatch.setattr(Audit, "note", refuse)
    world.project.update(show_collab_predictions=False)
    (diagnosis,) = [found for found in world.look(fix=True) if found.check == "fix"]
    assert (diagnosis.level, diagnosis.remedy) == (P, "try again later")
    assert "Not changed" in diagnosis.text
    assert world.patches == []


def test_nothing_is_changed_without_fix_or_without_need(world: World) -> None:
    world.look(fix=True)
    world.project.update(show_collab_predictions=False)
    world.look()
    assert world.patches == []


def test_a_version_of_ours_is_left_chosen(world: World) -> None:
    world.project["model_version"] = VERSION
    assert "predictions" not in {diagnosis.check for diagnosis in sick(world.look(fix=True))}
    assert world.patches == []


def test_an_older_label_studio_is_not_told_about_reserved_addresses(world: World) -> None:
    world.release({"release": "1.22.0"})
    world.row["state"] = "DI"
    found = sick(world.look())
    assert "address" not in {diagnosis.check for diagnosis in found}
    assert any(diagnosis.check == "connection" for diagnosis in found)


def test_a_public_address_is_not_told_about_reserved_addresses(world: World) -> None:
    world.names["gpu.example.com"] = ["8.8.8.8"]
    world.row.update(state="DI", url="http://gpu.example.com:9090")
    assert "address" not in {diagnosis.check for diagnosis in sick(world.look())}


def test_under_a_sub_path(tmp_path: Path) -> None:
    world = World(folder=tmp_path, prefix="/label-studio")
    with label_studio(world):
        world.tasks[5]["data"]["image"] = "/label-studio/data/upload/1/red.png"
        assert {diagnosis.check for diagnosis in sick(world.look())} == {"backend"}


def test_the_token_is_in_no_diagnosis(world: World) -> None:
    world.refresh = "another"
    assert PAT not in json.dumps([diagnosis.as_json() for diagnosis in world.look()])


def test_without_a_connection_that_is_the_projects_only_problem_there(world: World) -> None:
    world.connections.clear()
    problems = [diagnosis.check for diagnosis in world.look(project_id=1) if diagnosis.level is P]
    assert problems == ["connection"]


def test_offline_and_missing_weights_are_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    world.settings["profile_overrides"] = {"vlm.id": "nobody/no-such-model"}
    (diagnosis,) = [f for f in sick(world.look()) if f.check == "weights"]
    assert diagnosis.level is P
    assert "HF_HUB_OFFLINE" in diagnosis.text


# --- the command ------------------------------------------------------------------------------------------------------


def _environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"API_KEY": PAT, "URL": "http://label-studio.invalid"}
    for name, value in values.items():
        monkeypatch.setenv(f"LABEL_STUDIO_{name}", value)
    monkeypatch.setenv("INT_DATA_DIR", str(world.folder))
    monkeypatch.setenv("INT_PROFILE", str(world.folder / "tiny.toml"))
    monkeypatch.setenv("INT_PORT", "9")


@pytest.mark.parametrize(("connected", "status"), [(True, 0), (False, 1)])
def test_the_status_says_whether_there_is_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch, connected: bool, status: int
) -> None:
    if not connected:
        world.connections.clear()
    _environment(world, monkeypatch)
    told: list[str] = []
    environment = world.environment()
    got = run(url=world.url, project_id=None, fix=False, as_json=False, tell=told.append, environment=environment)
    assert got == status
    assert told[-1] == f"{1 - connected} problem{'s' if connected else ''}, 1 warning"
    assert any(line.startswith("PROBLEM  connection") for line in told) is not connected
    assert any(line.strip().startswith("remedy: ") for line in told)


def test_the_command_line_prints_json_alone_and_asks_the_real_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _environment(world, monkeypatch)
    result = CliRunner().invoke(app, ["doctor", "--url", world.url, "--project", "1", "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert answer["ok"] is True
    assert {"check", "level", "text", "cure"} == set(answer["findings"][0])
    assert [f["level"] for f in answer["findings"] if f["check"] == "memory"] != ["problem"]


def test_settings_that_make_no_sense_are_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INT_PORT", "many")
    told: list[str] = []
    assert run(url=None, project_id=None, fix=False, as_json=True, tell=told.append) == 1
    (diagnosis,) = json.loads(told[0])["findings"]
    assert "INT_PORT" in diagnosis["text"]


def test_a_diagnosis_that_is_not_well_names_a_remedy() -> None:
    with pytest.raises(ValueError, match="no remedy"):
        Diagnosis("token", Level.WARNING, "bad")
    assert {ok("a", "b").level, warning("a", "b", "c").level, problem("a", "b", "c").level} == set(Level)


def test_the_doctor_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, ml_backend.doctor.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert local.probe_in_subprocess.__module__ == "ml_backend.doctor.local"


def test_of_two_backends_it_is_said_which_does_batches(world: World) -> None:
    other_last(world)
    (found,) = [diagnosis for diagnosis in world.look() if "only the first, this one" in diagnosis.text]
    assert (found.check, found.level) == ("connection", Level.OK)
    assert "'YOLO' never is." in found.text
