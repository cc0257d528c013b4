"""Inputs that fuzzing kept are replayed; and the fuzzer itself finds what it is meant to find."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.fuzz import KEPT, TARGETS, Target, attempt, distorted, farthest, fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_taken_or_refused_as_documented(name: str) -> None:
    kept = sorted((KEPT / name).iterdir())
    assert kept
    for file in kept:
        assert attempt(TARGETS[name], file.read_bytes()) == "", file


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_search_finds_nothing(name: str) -> None:
    seeds = [file.read_bytes() for file in (KEPT / name).iterdir()]
    found = fuzz(TARGETS[name], seeds, 0.5, random.Random(time.time_ns()))  # noqa: S311 - no secret
    assert found.findings == {}
    assert found.steps > 20


def _fragile(data: bytes) -> None:
    if data.startswith(b"b"):
        if b"bu" in data:
            if b"bug" in data:
                raise KeyError("found")
            while b"bus" in data:
                pass
        if b"no" in data:
            raise ValueError("refused")


@pytest.mark.parametrize(
    ("word", "wrong"), [(b"bug", "KeyError: 'found'"), (b"bus", "took more than 0.2 s"), (b"bno", "")]
)
def test_an_undocumented_error_and_a_hang_are_findings(word: bytes, wrong: str) -> None:
    target = Target(_fragile, (ValueError,), ("test_fuzz.py",))
    assert attempt(target, word, seconds=0.2) == wrong


def test_the_search_follows_the_steps_between_lines() -> None:
    target = Target(_fragile, (ValueError,), ("test_fuzz.py",), (b"b", b"u", b"g", b"bu"))
    found = fuzz(target, [b"x"], 5.0, random.Random(3))  # noqa: S311 - no secret
    assert "KeyError: 'found'" in found.findings
    assert len(found.corpus) >= 3


def test_the_shortest_inputs_that_reach_everything_are_kept() -> None:
    target = Target(_fragile, (ValueError,), ("test_fuzz.py",))
    corpus = [b"x", b"b", b"bu", b"bu and more of the same", b"bno", b"bno" + b"x" * 5000, b"y"]
    assert farthest(target, corpus, 9) == [b"bu", b"bno"]
    assert farthest(target, corpus, 1) == [b"bu"]


def test_bodies_are_distorted_and_the_honest_one_stays() -> None:
    rng = random.Random(1)  # noqa: S311 - no secret
    honest = {"tasks": [{"id": 1, "data": {"image": "x"}}], "params": {"context": None}}
    before = str(honest)
    made = {str(distorted(honest, rng)) for _ in range(200)}
    assert str(honest) == before
    assert len(made) > 50
