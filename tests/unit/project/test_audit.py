"""`scripts/audit.py` with an advisory service of our own on a real socket: what `make lint` does with its answers."""

import datetime
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ml_backend.demo.processes import free_port
from tests.support.http_server import Reply, Request, http_server, json_reply

ROOT = Path(__file__).resolve().parents[3]
FINDING = {
    "id": "GHSA-made-up00-0001",
    "aliases": ["CVE-2026-0001"],
    "summary": "something",
    "affected": [
        {
            "package": {"name": "shaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.3"}]}],
        }
    ],
}


def service(request: Request) -> Reply:
    return json_reply({"vulns": [FINDING]} if request.json()["package"]["name"] == "shaky" else {})


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text("sound==2.0\nshaky==1.2\n")
    return file


def audit(pinned: Path, url: str, accepted: str = "", *more: str) -> tuple[int, str]:
    file = pinned.with_name("accepted.txt")
    file.write_text(accepted)
    command = [sys.executable, str(ROOT / "scripts/audit.py"), str(pinned), "--service", url, "--accepted", str(file)]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def day(days: int) -> str:
    return (datetime.datetime.now(tz=datetime.UTC).date() + datetime.timedelta(days=days)).isoformat()


def test_a_known_weakness_fails_and_is_named_with_its_remedy(pinned: Path) -> None:
    with http_server(service) as asked:
        status, told = audit(pinned, f"{asked.url}/v1/query")
    assert status == 1
    assert "shaky 1.2: CVE-2026-0001, GHSA-made-up00-0001; fixed in 1.3" in told
    assert {request.json()["package"]["name"] for request in asked.requests} >= {"sound", "shaky"}


def test_a_justified_one_passes(pinned: Path) -> None:
    with http_server(service) as asked:
        status, told = audit(pinned, asked.url, f"# why\nGHSA-made-up00-0001 {day(3)} its parser is not used here\n")
    assert status == 0
    assert "accepted: its parser is not used here" in told


def test_a_justification_counts_until_its_day(tmp_path: Path) -> None:
    accepted = runpy.run_path(str(ROOT / "scripts/audit.py"))["accepted"]
    file = tmp_path / "accepted.txt"
    file.write_text("CVE-2026-0001 2026-11-22 its parser is not used here\n")
    assert accepted(file, datetime.date(2026, 11, 22)) == {"CVE-2026-0001": "its parser is not used here"}
    assert accepted(file, datetime.date(2026, 11, 23)) == {}


def test_a_reason_is_needed(pinned: Path) -> None:
    status, told = audit(pinned, "http://127.0.0.1:9", f"CVE-2026-0001 {day(3)}\n")
    assert status == 2
    assert "line 1: write ID, a day as 2027-01-31, and why" in told


def test_without_a_network_it_is_skipped_in_one_line(pinned: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    status, told = audit(pinned, url)
    assert (status, len(told.splitlines())) == (0, 1)
    assert f"skipped: the advisory service at {url} does not answer" in told
    assert audit(pinned, url, "", "--needed")[0] == 1


@pytest.mark.parametrize("reply", [Reply(status=404), Reply(b"<html>Log in to the network</html>")])
def test_a_proxy_that_answers_for_the_service_is_no_clean_list(pinned: Path, reply: Reply) -> None:
    with http_server(lambda _: reply) as asked:
        status, told = audit(pinned, asked.url)
    assert status == 0
    assert told.startswith("skipped: ")


def test_a_service_that_breaks_off_is_no_clean_list(pinned: Path) -> None:
    left = iter([json_reply({})])
    with http_server(lambda _: next(left, Reply(status=503))) as asked:
        status, told = audit(pinned, asked.url)
    assert status == 0
    assert told.startswith("skipped: ")
    assert "503" in told


def test_a_file_that_pip_audit_cannot_read_fails(pinned: Path) -> None:
    pinned.write_text("shaky >= 1 ???\n")
    with http_server(service) as asked:
        status, told = audit(pinned, asked.url)
    assert status == 1
    assert "pip-audit gave up on requirements.txt" in told
