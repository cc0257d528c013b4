"""What the form of a run offers, and which of its fields an error is about; Label Studio is a stand-in in memory."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ml_backend.api.run_actions import form
from ml_backend.api.run_actions.form import Choices, Offered, number_in, typed_of, wrong_field
from ml_backend.labelstudio.client import LabelStudioError
from ml_backend.runs.manager import RunsError


class Client:
    """Lists projects 1 and 2 of three or more; project 7 is there, too, and has views."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.status = 404
        self.go = threading.Event()
        self.go.set()

    def projects(self, most: int) -> tuple[dict[int, str], bool]:
        self.asked.append(most)
        assert self.go.wait(30)
        return {2: "Toads", 1: "Frogs"}, True

    def project(self, number: int) -> dict[str, Any]:
        if number == 7:
            return {"title": "Newts"}
        if number == 8:
            return {}
        raise LabelStudioError("refused", self.status)

    def views(self, project: int) -> dict[int, str]:
        return {10 * project: "All"}


def offered(client: Any, project: int | None) -> Offered:
    return asyncio.run(Choices(client).offered(project))


def test_the_newest_projects_are_offered_and_the_chosen_one_with_its_views() -> None:
    client, listed = Client(), {2: "Toads", 1: "Frogs"}
    assert offered(client, None) == Offered(True, listed, True, {})
    assert offered(client, 1) == Offered(True, listed, True, {10: "All"})
    assert offered(client, 7) == Offered(True, listed | {7: "Newts"}, True, {70: "All"})
    assert offered(client, 8) == Offered(True, listed | {8: ""}, True, {80: "All"})
    assert client.asked == [100] * 4


@pytest.mark.parametrize("status", [0, 401, 404, 500])
def test_a_project_that_is_not_there_has_no_views_and_one_that_is_refused_offers_nothing(status: int) -> None:
    client = Client()
    client.status = status
    expected = Offered(True, {2: "Toads", 1: "Frogs"}, True, {}) if status == 404 else Offered()
    assert offered(client, 9) == expected


def test_a_page_does_not_wait_for_ever_and_looks_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = Client()
    client.go.clear()
    monkeypatch.setattr(form, "PATIENCE", 0.01)

    async def play() -> None:
        choices = Choices(client)
        for project in (1, 1, 2, 2, 3):
            assert await choices.offered(project) == Offered()
        assert len(choices._looks) == 2
        client.go.set()
        monkeypatch.setattr(form, "PATIENCE", 30.0)
        assert (await choices.offered(1)).reached
        assert (await choices.offered(3)).reached

    asyncio.run(play())
    assert 3 <= len(client.asked) <= 4


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("", None), ("-7", None), ("7.0", None), ("\u0667", None)],
)
def test_only_plain_digits_are_a_number(text: str, number: int | None) -> None:
    assert number_in({"project": text}, "project") == number
    assert number_in({}, "project") is None


def test_fields_are_kept_as_texts() -> None:
    given = {"project": 7, "prompt": "", "limit": None, "only_missing": False, "include_annotated": True, "odd": "x"}
    assert typed_of(given) == {"project": "7", "include_annotated": "True"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("limit: must be at least 1"), ("limit", "must be at least 1")),
        (ValueError("limit"), ("", "limit")),
        (ValueError("note: look"), ("", "note: look")),
        (RunsError("it has no view 3", "view"), ("view", "it has no view 3")),
        (RunsError("no"), ("", "no")),
        (LabelStudioError("there is none", 404), ("project", "there is none")),
        (LabelStudioError("not now", 500), ("", "not now")),
    ],
)
def test_an_error_is_about_a_field(error: Exception, expected: tuple[str, str]) -> None:
    assert wrong_field(error) == expected
