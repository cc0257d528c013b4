"""What undoing, verifying and reviewing a run answer as JSON, for the OpenAPI page."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Out(BaseModel):
    """An answer: these fields, and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class UndoneOut(Out):
    """Predictions that are (or would be) deleted, that stay, and that are gone; whether it is done."""

    deleted: int
    kept: int
    gone: int
    finished: bool


class VerifiedOut(Out):
    """What Label Studio has of a run: tasks with its prediction, without, with several, and tasks that are gone."""

    state: Literal["none", "running", "done", "failed"]
    looked: int
    there: int
    missing: int
    doubled: int
    deleted: int
    missing_tasks: list[int]
    pushed: int
    removed: int
    at: str | None
    trouble: str


class ReviewedOut(Out):
    """An image of a run with what was thought of it; ``other`` is the score of the run that it is compared with."""

    task: int
    state: Literal["done", "abstained"]
    score: float | None
    verdict: Literal["accept", "skip", "wrong"] | None
    note: str
    who: str
    other: float | None


class ReviewOut(Out):
    """Images to look at, how many have each verdict ("" for none), and the next ``after`` or null."""

    images: list[ReviewedOut]
    counts: dict[str, int]
    next: int | None


class JudgedOut(Out):
    """What is kept of an image."""

    task: int
    verdict: str
    note: str


class AcceptedOut(Out):
    """Annotations that were (or would be) made, and tasks that are left alone: people's, and those without regions."""

    least: float
    made: int
    people: int
    gone: int
