"""``int-backend doctor``: the examination as lines for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ml_backend.doctor.diagnosis import Diagnosis, Level, has_problem, problem, report
from ml_backend.doctor.examination import Environment, examine
from ml_backend.settings import load_settings

_MARKS = {Level.OK: "ok     ", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}


def run(
    *,
    url: str | None,
    project_id: int | None,
    fix: bool,
    as_json: bool,
    tell: Callable[[str], None],
    environment: Environment | None = None,
) -> int:
    """Examine, tell, and return the exit status: 1 if there is any problem, else 0."""
    found: list[Diagnosis] = []
    for diagnosis in _examined(url, project_id, fix, environment):
        found.append(diagnosis)
        if not as_json:
            for line in lines(diagnosis):
                tell(line)
    if as_json:
        tell(json.dumps(report(found), indent=2))
    else:
        tell(summary(found))
    return 1 if has_problem(found) else 0


def _examined(
    url: str | None, project_id: int | None, fix: bool, environment: Environment | None
) -> Iterable[Diagnosis]:
    try:
        settings = load_settings({"label_studio_url": url})
    except ValueError as error:
        return [problem("settings", f"The settings cannot be used: {error}.", "correct it; docs/settings.md lists all")]
    return examine(settings, project_id=project_id, fix=fix, environment=environment)


def lines(diagnosis: Diagnosis) -> list[str]:
    """A diagnosis for people: its sentence, and its remedy below."""
    head = f"{_MARKS[diagnosis.level]}  {diagnosis.check:<15}  {diagnosis.text}"
    return [head] if not diagnosis.remedy else [head, f"{'':26}remedy: {diagnosis.remedy}"]


def summary(diagnoses: Iterable[Diagnosis]) -> str:
    """The last line."""
    listed = list(diagnoses)
    problems = sum(diagnosis.level is Level.PROBLEM for diagnosis in listed)
    warnings = sum(diagnosis.level is Level.WARNING for diagnosis in listed)
    if not problems and not warnings:
        return "no problems, no warnings"
    return f"{problems} problem{'' if problems == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
