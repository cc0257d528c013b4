"""What an examination says: a level, one sentence, and the cure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is. Only a problem keeps predictions from arriving; a warning may."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, e.g. ``token``.
        level: how bad it is.
        text: one sentence.
        cure: what to do; never empty unless all is well.
    """

    check: str
    level: Level
    text: str
    cure: str = ""

    def __post_init__(self) -> None:
        if self.level is not Level.OK and not self.cure:
            raise ValueError(f"the finding '{self.text}' names no cure")

    def as_json(self) -> dict[str, str]:
        """As plain data."""
        return {"check": self.check, "level": self.level.value, "text": self.text, "cure": self.cure}


def ok(check: str, text: str) -> Finding:
    """A finding that all is well."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, cure: str) -> Finding:
    """A finding that may keep predictions from arriving, or make them poor."""
    return Finding(check, Level.WARNING, text, cure)


def problem(check: str, text: str, cure: str) -> Finding:
    """A finding that keeps predictions from arriving."""
    return Finding(check, Level.PROBLEM, text, cure)


def has_problem(findings: Iterable[Finding]) -> bool:
    """Whether any finding is a problem."""
    return any(finding.level is Level.PROBLEM for finding in findings)


def report(findings: Iterable[Finding]) -> dict[str, Any]:
    """The examination as plain data: ``ok`` (no problem) and ``findings``."""
    listed = list(findings)
    return {"ok": not has_problem(listed), "findings": [finding.as_json() for finding in listed]}


def split_cure(message: str, default: str) -> tuple[str, str]:
    """The sentence and the cure of one of this package's error messages, which read ``what is wrong; what to do``."""
    text, _, cure = message.partition("; ")
    return text, cure or default
