"""Which connection is ours, and what hides predictions: one answer for runs and for the doctor."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.doctor.connection import examine_connection
from ml_backend.labelstudio.connections import our_connection, prelabel_obstacles
from ml_backend.settings import Settings

VERSION = "int-nano-int-0123abcd"
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "title": st.sampled_from(["a", "b", "c"]),
            "state": st.sampled_from(["CO", "DI", "ER", None]),
            "model_version": st.sampled_from([VERSION, "int-nano-int-1", "0.0.1", "", None]),
            "url": st.sampled_from(["http://x:9090", "http://y:9091", "http://[", None]),
        }
    ),
    max_size=4,
)


def row(title: str, version: str | None, state: str | None = "CO", **more: Any) -> dict[str, Any]:
    return {"title": title, "model_version": version, "state": state, **more}


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([], None),
        ([{"title": "any", "model_version": "sam"}], "any"),
        ([{"title": "other", "model_version": "sam"}, {"title": "ours", "model_version": "int-nano-int-1"}], "ours"),
        ([{"title": "one", "model_version": None}, {"title": "two"}], None),
        ([row("YOLO", "0.0.1")], None),  # it answers, as another backend
        ([row("YOLO", "0.0.1"), row("down", None, "DI")], "down"),
        ([row("YOLO", "0.0.1", "DI"), row("ours", VERSION)], "ours"),
        ([row("first", VERSION), row("second", VERSION)], "first"),
        ([row("a", VERSION, url="http://x:9091"), row("b", VERSION, url="http://x:9090")], "b"),
        ([row("a", VERSION, url="http://x:9090"), row("b", VERSION, url="http://y:9090")], "a"),
        ([row("a", VERSION, url="http://["), row("b", VERSION, url="https://y")], "a"),
    ],
)
def test_our_connection(rows: list[dict[str, Any]], title: str | None) -> None:
    assert (our_connection(rows, port=9090) or {}).get("title") == title


@pytest.mark.parametrize(
    ("url", "port"), [("https://x", 443), ("http://x", 80), ("http://x:443", 443), ("http://x:1", 1)]
)
def test_a_port_that_an_address_leaves_out_is_that_of_its_scheme(url: str, port: int) -> None:
    rows = [row("elsewhere", VERSION, url="http://x:9090"), row("here", VERSION, url=url)]
    assert (our_connection(rows, port=port) or {}).get("title") == "here"
    assert (our_connection(rows, port=7) or {}).get("title") == "elsewhere"
    assert (our_connection(rows) or {}).get("title") == "elsewhere", "the port is not known"


@given(rows=ROWS)
def test_the_doctor_examines_the_connection_that_runs_take_their_prompt_from(rows: list[dict[str, Any]]) -> None:
    judged = examine_connection(rows, None, Settings(), running=True, guarded=True, look_up=lambda _: [])
    assert judged.title == (our_connection(rows, Settings().port) or {"title": ""})["title"]


@pytest.mark.parametrize(
    ("project", "title", "said"),
    [
        ({"show_collab_predictions": True, "model_version": VERSION}, "", []),
        ({"show_collab_predictions": True, "model_version": VERSION}, "INT", []),
        ({"show_collab_predictions": True, "model_version": "INT"}, "INT", []),
        ({"show_collab_predictions": True, "model_version": "INT"}, "", [("predictions of 'INT'", VERSION, False)]),
        ({"model_version": "old"}, "INT", [("predictions of 'old'", "INT", False)]),
        ({"model_version": ""}, "INT", [("no model version", "INT", True)]),
        (
            {"show_collab_predictions": False, "model_version": ""},
            "",
            [("does not show", True, True), ("no model version", VERSION, True)],
        ),
    ],
)
def test_settings_that_hide_predictions(project: dict[str, Any], title: str, said: list[tuple[str, Any, bool]]) -> None:
    found = prelabel_obstacles(project, VERSION, title)
    assert len(found) == len(said)
    for obstacle, (text, value, hides_all) in zip(found, said, strict=True):
        assert text in obstacle.text
        assert "Use predictions to prelabel tasks" in obstacle.remedy
        assert list(obstacle.change.values()) == [value]
        assert obstacle.hides_all is hides_all
    changed = {**project, **{key: value for obstacle in found for key, value in obstacle.change.items()}}
    assert prelabel_obstacles(changed, VERSION, title) == []


def test_a_project_without_a_connection_or_a_version_has_nothing_to_choose() -> None:
    assert prelabel_obstacles({"model_version": "old"}, "") == []
    assert [o.change for o in prelabel_obstacles({"model_version": None}, "", "INT")] == [{"model_version": "INT"}]
