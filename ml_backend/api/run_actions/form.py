"""The form of a new run: the projects and views that can be chosen, what was typed, and why it was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.runs.manager import RunsError
from ml_backend.runs.types import RunRequest

PATIENCE = 3.0
"""Seconds that a page waits for Label Studio."""

FIELDS = tuple(RunRequest.model_fields)
_MOST_PROJECTS = 100
_MOST_LOOKS = 2
"""At the same time: each may hold a thread for as long as Label Studio is silent."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What can be chosen.

    Attributes:
        reached: whether Label Studio answered; otherwise there is nothing to choose from.
        projects: titles by id, the newest first, and the chosen one.
        more: whether there are projects that are not listed.
        views: titles by id, of the chosen project.
    """

    reached: bool = False
    projects: Mapping[int, str] = field(default_factory=dict)
    more: bool = False
    views: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Form:
    """The form as the page shows it.

    Attributes:
        offered: what can be chosen.
        typed: what its fields hold.
        project: the chosen project, or None: then it is asked for first.
        wanted: whether the form is what the page was asked for.
        refused: why no run was begun, or "".
        cure: what to do about that.
        wrong: the field that is at fault, or "".
    """

    offered: Offered
    typed: Mapping[str, str] = field(default_factory=dict)
    project: int | None = None
    wanted: bool = False
    refused: str = ""
    cure: str = ""
    wrong: str = ""


class Choices:
    """Asks Label Studio what can be chosen; a page waits for that only so long. Lives in one event loop.

    Args:
        client: Label Studio, best without retries.
    """

    def __init__(self, client: LabelStudioClient) -> None:
        self._client = client
        self._looks: dict[int | None, asyncio.Task[Offered]] = {}

    async def offered(self, project: int | None) -> Offered:
        """What can be chosen, with the views of that project; nothing where Label Studio is silent or refuses."""
        look = self._looks.get(project)
        if look is None:
            if len(self._looks) >= _MOST_LOOKS:
                return Offered()
            look = self._looks[project] = asyncio.create_task(asyncio.to_thread(self._look, project))
            look.add_done_callback(lambda _: self._looks.pop(project))
        done, _ = await asyncio.wait([look], timeout=PATIENCE)
        return look.result() if done else Offered()

    def _look(self, project: int | None) -> Offered:
        try:
            projects, more = self._client.projects(_MOST_PROJECTS)
            if project is not None and project not in projects:
                projects = projects | self._titled(project)
            views = self._client.views(project) if project in projects and project is not None else {}
        except LabelStudioError:
            return Offered()
        return Offered(True, projects, more, views)

    def _titled(self, project: int) -> dict[int, str]:
        try:
            return {project: str(self._client.project(project).get("title") or "")}
        except LabelStudioError as error:
            if error.status != 404:
                raise
            return {}


def typed_of(given: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the form as texts, whatever was sent."""
    return {name: str(given[name]) for name in FIELDS if given.get(name) not in (None, "", False)}


def number_in(typed: Mapping[str, str], name: str) -> int | None:
    """A field as a whole number, or None if it is none."""
    text = typed.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def wrong_field(error: Exception) -> tuple[str, str]:
    """The field of the form that an error is about, or "", and what is wrong with it."""
    text = str(error)
    name, separator, rest = text.partition(": ")
    if separator and name in FIELDS:
        return name, rest
    if isinstance(error, RunsError) and error.field:
        return error.field, text
    return ("project" if isinstance(error, LabelStudioError) and error.status == 404 else ""), text
