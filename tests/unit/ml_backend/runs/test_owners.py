"""Whose a lease is: a machine must know its own dead, and never take a living worker for one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from ml_backend.runs.owners import new_owner, pid_of, process_lives, this_host


def test_an_owner_names_this_process_and_no_two_are_alike() -> None:
    first, second = new_owner(), new_owner()
    assert first != second
    assert first.startswith(f"{this_host()}:")
    assert pid_of(first) == pid_of(second) == os.getpid()


def test_a_name_fits_into_its_column_however_long_the_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 253)
    assert len(this_host()) == 100
    assert len(new_owner()) <= 200
    assert pid_of(new_owner()) == os.getpid()


@pytest.mark.parametrize(
    ("owner", "pid"),
    [
        ("here:12:abcd", 12),
        ("2001:db8::1:12:abcd", 12),
        ("here:12", None),
        ("here:abcd", None),
        ("here", None),
        ("", None),
        ("here:twelve:abcd", None),
        ("here:-12:abcd", None),
    ],
)
def test_names_of_another_form_have_no_process(owner: str, pid: int | None) -> None:
    assert pid_of(owner) == pid


def test_a_process_lives_until_it_has_ended_and_is_not_disturbed_by_the_question() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_lives(child.pid)
    child.communicate(b"go on\n")
    assert child.returncode == 0
    assert not process_lives(child.pid)


def test_somebody_elses_process_lives_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert process_lives(1)
