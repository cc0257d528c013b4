"""Actions over HTTP and from the command line are in the log, and on its page."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ml_backend.cli import main as cli
from tests.support.harness import backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio


def test_who_did_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    password = {"basic_auth_user": "anna", "basic_auth_pass": "p", "admin_token": "secret"}
    with (
        label_studio(LabelStudio(valid={f"Token {TOKEN}"}, tasks={})) as fake,
        backend(data, label_studio_url=fake.url, label_studio_api_key=TOKEN, **password) as made,
    ):
        admin = {"Authorization": "Bearer secret"}
        assert made.client.post("/runs", json={"project": 1, "prompt": "<b>x</b>"}, headers=admin).is_success
        made.client.post("/runs", json={"project": 1, "dry_run": True}, headers=admin)
        made.client.post("/runs/1/cancel", headers=admin)
        assert made.client.post("/runs/1/cancel", auth=("anna", "p")).status_code == 401
        monkeypatch.setenv("INT_DATA_DIR", str(data))
        CliRunner().invoke(cli.app, ["runs", "cancel", "1"])
        entries = made.client.get("/audit", auth=("anna", "p")).json()["entries"]
        assert [(e["action"], e["what"]) for e in entries] == [
            ("cancel", "run 1"),
            ("cancel", "run 1"),
            ("start", 'project 1: {"prompt":"<b>x</b>"}'),
        ]
        assert [e["who"] for e in entries] == [
            f"user {getpass.getuser()} of this machine",
            "admin token",
            "admin token",
        ]
        assert entries[-1]["place"] == "127.0.0.1"
        page = made.client.get("/audit", headers={**admin, "Accept": "text/html"})
        assert "admin token" in page.text
        assert "<b>x" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert made.client.get("/audit").status_code == 401
        older = made.client.get(f"/audit?before={entries[0]['id']}&limit=1", auth=("anna", "p")).json()
        assert (len(older["entries"]), older["next"]) == (1, entries[1]["id"])
