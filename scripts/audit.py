"""Ask an advisory service for known weaknesses of the pinned packages, with pip-audit.

    python scripts/audit.py [--needed] [--accepted FILE] [--service URL] REQUIREMENTS...

Fails for each weakness that the file of accepted ones does not justify. Where the service does not answer, it says so
in one line, and fails only with ``--needed``. It asks osv.dev: from PyPI's service pip-audit takes a 404 for a package
that is not listed, and a proxy that answers so for everything would look like a clean list.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE = "https://api.osv.dev/v1/query"
ACCEPTED = Path(__file__).with_name("accepted_weaknesses.txt")
_SECONDS = 15


class AuditError(Exception):
    """There is no list of weaknesses, for a reason that the message tells."""


@dataclass(frozen=True, slots=True)
class Weakness:
    """One of a package; ``names``: its identifiers, the first one to be shown."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no version fixes it"
        return f"{self.package} {self.version}: {', '.join(self.names)}; {remedy}"


def accepted(file: Path, today: datetime.date) -> dict[str, str]:
    """The reasons by identifier, of the entries that still count. Raises ``ValueError`` for a line of another form."""
    reasons = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, day, reason = [*line.split(maxsplit=2), "", ""][:3]
        try:
            until = datetime.date.fromisoformat(day)
        except ValueError:
            until = None
        if until is None or not reason:
            raise ValueError(f"{file}, line {number}: write ID, a day as 2027-01-31, and why it is no matter here")
        if until >= today:
            reasons[name] = reason
    return reasons


def silence(service: str) -> str:
    """Why the service does not answer, or ""."""
    query = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "20.0"}).encode()
    request = urllib.request.Request(service, query, {"Content-Type": "application/json"})  # noqa: S310 - the operator's
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # nosec B310 # noqa: S310
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except ValueError:
        return "it answers no JSON"
    return "" if isinstance(found, dict) else "it answers something else"


def weaknesses(requirements: Path, service: str) -> Iterator[Weakness]:
    """Those of the packages that a file pins. Raises `AuditError` if pip-audit cannot say."""
    hashed = "--hash=" in requirements.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--disable-pip"]
        command += ["--require-hashes" if hashed else "--no-deps", "--requirement", str(requirements)]
        command += ["--vulnerability-service", "osv", "--osv-url", service, "--timeout", str(_SECONDS)]
        command += ["--format", "json", "--output", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        try:
            found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = done.stderr.strip().splitlines()[-1:] or ["without a word"]
            raise AuditError(f"pip-audit gave up on {requirements.name}: {told[0]}") from None
    for package in found["dependencies"]:
        if "skip_reason" in package:
            raise AuditError(f"pip-audit did not look at {package['name']}: {package['skip_reason']}")
        for entry in package["vulns"]:
            names = (entry["id"], *entry.get("aliases", ()))
            yield Weakness(package["name"], package["version"], names, tuple(entry["fix_versions"]))


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("requirements", nargs="+", type=Path)
    parser.add_argument("--needed", action="store_true", help="fail if the service does not answer")
    parser.add_argument("--accepted", type=Path, default=ACCEPTED)
    parser.add_argument("--service", default=SERVICE)
    given = parser.parse_args(arguments)
    try:
        reasons = accepted(given.accepted, datetime.datetime.now(tz=datetime.UTC).date())
    except ValueError as error:
        parser.error(str(error))
    try:
        if why := silence(given.service):
            return _unasked(given.service, why, needed=given.needed)
        with ThreadPoolExecutor(len(given.requirements)) as pool:
            found = [*pool.map(lambda file: list(weaknesses(file, given.service)), given.requirements)]
    except AuditError as error:
        if why := silence(given.service):  # it has stopped answering meanwhile
            return _unasked(given.service, why, needed=given.needed)
        print(error, file=sys.stderr)
        return 1
    open_ones = 0
    for weakness in sorted({weakness for each in found for weakness in each}, key=str):
        reason = next((reasons[name] for name in weakness.names if name in reasons), None)
        open_ones += reason is None
        print(f"{weakness}" if reason is None else f"{weakness} - accepted: {reason}")
    print(f"{open_ones} known weaknesses that nobody has justified in {given.accepted.name}")
    return int(open_ones > 0)


def _unasked(service: str, why: str, *, needed: bool) -> int:
    print(f"skipped: the advisory service at {service} does not answer ({why}); run make audit where it does")
    return int(needed)


if __name__ == "__main__":
    sys.exit(main())
