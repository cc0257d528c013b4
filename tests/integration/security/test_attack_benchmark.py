"""The benchmark of attacks runs, and tells what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile_bodies import ATTACKS


@pytest.mark.slow
def test_it_attacks_one_by_one_and_together_and_loses_nothing(tmp_path: Path) -> None:
    quick = ["foreign pages", "log flood", "400 prompts"]
    command = [sys.executable, "-m", "benchmarks.attacks", "--each", "1", "--minutes", "0.05", "--only", *quick]
    made = subprocess.run([*command, "--json", str(tmp_path / "a.json")], capture_output=True, text=True, check=False)
    told = json.loads((tmp_path / "a.json").read_text())
    assert [look["name"] for look in told["looks"]] == [*quick, "all 3 together"], made.stdout + made.stderr
    assert all(len(look["health"]) > 5 and look["answers"] for look in told["looks"])
    assert told["looks"][0]["answers"].keys() == {"403"}
    assert (told["run"]["lost"], told["run"]["doubled"]) == (0, 0)


def test_every_attack_has_something_to_send() -> None:
    assert len(ATTACKS) > 15
