"""The doctor's judgements on any answer: they hold for odd ones too, and say what they are meant to say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_model.models.memory import accelerators
from ml_backend.doctor.command import lines, summary
from ml_backend.doctor.connection import examine_connection
from ml_backend.doctor.diagnosis import Level, has_problem, ok, problem, report, split_remedy, warning
from ml_backend.doctor.project import examine_config, examine_predictions
from ml_backend.doctor.sample import kind_of
from ml_backend.doctor.server import Server
from ml_backend.labelstudio.connections import prelabel_obstacles
from ml_backend.settings import Settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["CO", "DI", "ER", "PR", None, 3]),
        "url": st.sampled_from(["http://10.0.0.1:9090", "http://[", "http://x", "", None]) | st.text(max_size=20),
        "model_version": st.sampled_from(["int-nano-int-0123abcd", "0.0.1", None]) | JSON,
        "title": JSON,
        "error_message": JSON,
    },
)
SETTINGS = Settings()


@settings(deadline=None)
@given(rows=st.lists(ROW | JSON, max_size=3) | JSON, webhooks=JSON | st.lists(JSON, max_size=2), running=st.booleans())
def test_any_answer_about_connections_is_judged(rows: Any, webhooks: Any, running: bool) -> None:
    judged = examine_connection(rows, webhooks, SETTINGS, running=running, guarded=True, look_up=lambda host: [])
    assert judged.diagnoses
    assert isinstance(judged.title, str)
    assert isinstance(judged.version, str)


PROJECT = st.fixed_dictionaries(
    {},
    optional={
        "show_collab_predictions": st.sampled_from([True, False, None]),
        "model_version": st.sampled_from(["INT", "int-nano-int-0123abcd", "old", "", None]),
        "sampling": st.sampled_from(["Sequential sampling", "Uncertainty sampling", None]),
    },
)


@given(project=PROJECT, title=st.sampled_from(["INT", ""]), version=st.sampled_from(["int-nano-int-0123abcd", ""]))
def test_what_is_changed_makes_the_project_well(project: dict[str, Any], title: str, version: str) -> None:
    found = examine_predictions(project, title, version)
    assert found
    obstacles = prelabel_obstacles(project, version, title)
    change = {name: value for obstacle in obstacles for name, value in obstacle.change.items()}
    after = examine_predictions({**project, **change}, title, version)
    assert {diagnosis.level for diagnosis in after if diagnosis.check == "predictions"} == {Level.OK}
    assert bool(change) is any(f.level is not Level.OK for f in found if f.check == "predictions")


@given(config=st.text(max_size=60), extra=JSON)
def test_any_labeling_config_is_judged(config: str, extra: Any) -> None:
    found, parsed = examine_config(config, extra, SETTINGS)
    assert has_problem(found) or parsed is not None


@given(address=st.text(max_size=40))
def test_any_address_has_a_kind(address: str) -> None:
    assert kind_of(address)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/data/upload/1/a.png", "upload"),
        ("/ls/data/upload/1/a.png", "upload"),
        ("http://ls/ls/data/upload/1/a.png", "upload"),
        ("/data/local-files/?d=a.png", "local file"),
        ("s3://bucket/a.png", "cloud storage"),
        ("https://example.com/a.png", "web address"),
        ("data:image/png;base64,AAAA", "data: address"),
        ("ftp://x/a.png", "address"),
        ("http://[", "address"),
    ],
)
def test_kinds_of_addresses(address: str, kind: str) -> None:
    assert kind_of(address, "/ls") == kind


@pytest.mark.parametrize(
    ("version", "guards"),
    [("1.23.1", True), ("1.23.0", False), ("1.22.9", False), ("1.24", True), ("2.0.0rc1", True), ("", True)],
)
def test_which_versions_refuse_private_addresses(version: str, guards: bool) -> None:
    assert Server((), True, version).guards_addresses is guards


def test_the_remedy_is_what_follows_the_semicolon() -> None:
    assert split_remedy("it is broken; mend it; now", "x") == ("it is broken", "mend it; now")
    assert split_remedy("it is broken", "mend it") == ("it is broken", "mend it")


def test_lines_and_summary() -> None:
    found = [ok("a", "Fine."), warning("b", "Hm.", "look"), problem("c", "No.", "do")]
    assert lines(found[0]) == ["ok       a                Fine."]
    assert lines(found[2]) == ["PROBLEM  c                No.", "                          remedy: do"]
    assert summary(found) == "1 problem, 1 warning"
    assert summary(found[:1]) == "no problems, no warnings"
    assert report(found)["ok"] is False
    assert report(found[:2])["ok"] is True
    assert report(found)["findings"][1] == {"check": "b", "level": "warning", "text": "Hm.", "cure": "look"}


def test_this_machine_has_memory() -> None:
    seen = accelerators()
    assert seen["ram_gb"] > 0.1
    assert all(0 <= card["free_gb"] <= card["total_gb"] for card in seen["cuda"])
