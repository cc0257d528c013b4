"""What the doctor says of one thing that it checked: a level, one sentence, and the instruction that remedies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a diagnosis is. Only a problem keeps predictions from arriving; a warning may."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The outcome of one check.

    Attributes:
        check: what was looked at, e.g. ``token``.
        level: how bad it is.
        text: one sentence.
        remedy: what to do; never empty unless the level is OK.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level is not Level.OK and not self.remedy:
            raise ValueError(f"the diagnosis '{self.text}' names no remedy")

    def as_json(self) -> dict[str, str]:
        """As plain data, under the names of the command's JSON."""
        return {"check": self.check, "level": self.level.value, "text": self.text, "cure": self.remedy}


def ok(check: str, text: str) -> Diagnosis:
    """A check that found nothing wrong."""
    return Diagnosis(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Diagnosis:
    """A diagnosis that may keep predictions from arriving, or make them poor."""
    return Diagnosis(check, Level.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str) -> Diagnosis:
    """A diagnosis that keeps predictions from arriving."""
    return Diagnosis(check, Level.PROBLEM, text, remedy)


def has_problem(diagnoses: Iterable[Diagnosis]) -> bool:
    """Whether any diagnosis is a problem."""
    return any(diagnosis.level is Level.PROBLEM for diagnosis in diagnoses)


def of_error(check: str, error: Exception, default: str, *, before: str = "") -> Diagnosis:
    """A problem in the words of one of this package's errors; ``default`` is the remedy where it names none."""
    text, remedy = split_remedy(str(error), default)
    text = f"{before}{text}".rstrip(".")
    return problem(check, f"{text[:1].upper()}{text[1:]}.", remedy)


def report(diagnoses: Iterable[Diagnosis]) -> dict[str, Any]:
    """The examination as plain data: ``ok`` (no problem) and ``findings``."""
    listed = list(diagnoses)
    return {"ok": not has_problem(listed), "findings": [diagnosis.as_json() for diagnosis in listed]}


def split_remedy(message: str, default: str) -> tuple[str, str]:
    """The sentence and the remedy of one of this package's error messages, which read ``what is wrong; what to do``."""
    text, _, remedy = message.partition("; ")
    return text, remedy or default
