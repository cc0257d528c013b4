"""The benchmark of attacks runs, and tells what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.hostile_bodies import ATTACKS, MEGABYTE, Target
from tests.support.served import served

QUICK = [
    "15 MB of nested lists",
    "10 MB of extra params",
    "project ids",
    "20,000 labels",
    "20,000 brushes",
    "400 prompts",
    "polygon of 99,000 points",
    "1,200,000 shortest runs",
    "log flood",
    "foreign pages",
]


@pytest.mark.slow
def test_it_attacks_one_by_one_and_together_and_loses_nothing(tmp_path: Path) -> None:
    quick = ["foreign pages", "log flood", "400 prompts"]
    command = [sys.executable, "-m", "benchmarks.attacks", "--each", "1", "--minutes", "0.05", "--only", *quick]
    made = subprocess.run([*command, "--json", str(tmp_path / "a.json")], capture_output=True, text=True, check=False)
    told = json.loads((tmp_path / "a.json").read_text())
    assert [look["name"] for look in told["looks"]] == [*quick, "all 3 together"], made.stdout + made.stderr
    assert all(len(look["health"]) > 5 and look["answers"] for look in told["looks"])
    assert all(0 <= look["step"] < 60 for look in told["looks"])
    assert told["looks"][0]["answers"].keys() == {"403"}
    assert (told["run"]["lost"], told["run"]["doubled"]) == (0, 0)


def test_every_attack_has_something_to_send() -> None:
    assert len(ATTACKS) > 15


@pytest.mark.slow
def test_no_step_of_the_event_loop_is_as_long_as_reading_one_body_would_be(tmp_path: Path) -> None:
    """In CPU seconds, beside those of the JSON parser on this machine: what other programs take does not count."""
    nested = b"[" + b"[]," * (15 * MEGABYTE // 3) + b"[]]"
    begun = time.thread_time()
    json.loads(nested)
    naive = time.thread_time() - begun
    with served(tmp_path) as made:
        made.client.get("/health")
        made.forget_steps()
        steps = {}
        for name in QUICK:
            next(ATTACKS[name](Target(made.client.base_url.port or 0, 9)))(made.client)
            steps[name] = made.longest_step
            made.forget_steps()
        assert any(steps.values())
        assert max(steps.values()) < 0.25 * naive, (naive, steps)
