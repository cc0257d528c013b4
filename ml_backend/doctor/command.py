"""``int-backend doctor``: the examination as lines for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ml_backend.cli.serve import load_settings
from ml_backend.doctor.examination import Surroundings, examine
from ml_backend.doctor.findings import Finding, Level, has_problem, problem, report

_MARKS = {Level.OK: "ok     ", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}


def run(
    *,
    url: str | None,
    project_id: int | None,
    fix: bool,
    as_json: bool,
    tell: Callable[[str], None],
    around: Surroundings | None = None,
) -> int:
    """Examine, tell, and return the exit status: 1 if there is any problem, else 0."""
    found: list[Finding] = []
    for finding in _examined(url, project_id, fix, around):
        found.append(finding)
        if not as_json:
            for line in lines(finding):
                tell(line)
    if as_json:
        tell(json.dumps(report(found), indent=2))
    else:
        tell(summary(found))
    return 1 if has_problem(found) else 0


def _examined(url: str | None, project_id: int | None, fix: bool, around: Surroundings | None) -> Iterable[Finding]:
    try:
        settings = load_settings({"label_studio_url": url})
    except ValueError as error:
        return [problem("settings", f"The settings cannot be used: {error}.", "correct it; docs/settings.md lists all")]
    return examine(settings, project_id=project_id, fix=fix, around=around)


def lines(finding: Finding) -> list[str]:
    """A finding for people: its sentence, and its cure below."""
    head = f"{_MARKS[finding.level]}  {finding.check:<15}  {finding.text}"
    return [head] if not finding.cure else [head, f"{'':26}cure: {finding.cure}"]


def summary(findings: Iterable[Finding]) -> str:
    """The last line."""
    listed = list(findings)
    problems = sum(finding.level is Level.PROBLEM for finding in listed)
    warnings = sum(finding.level is Level.WARNING for finding in listed)
    if not problems and not warnings:
        return "all is well"
    return f"{problems} problem{'' if problems == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
