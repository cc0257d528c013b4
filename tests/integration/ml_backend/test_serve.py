"""``int-backend serve`` as a process: it comes up, says where, answers while models load, and goes when told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest


class Served:
    """The running command; its messages are collected by a thread, so that it never waits for a reader."""

    def __init__(self, folder: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("INT_", "LABEL_STUDIO"))}
        env |= {"INT_DATA_DIR": str(folder), "LABEL_STUDIO_API_KEY": "hunter2", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "ml_backend.cli.main", "serve", "--host", "127.0.0.1", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.lines: list[str] = []
        self.address: str | None = None
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", line):
                self.address = found[1]
            if "startup complete" in line:
                self._known.set()
        self._known.set()

    def wait(self) -> str:
        assert self._known.wait(120)
        assert self.address is not None, "".join(self.lines)
        return self.address

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_comes_up_answers_and_goes(served: Served, number: signal.Signals) -> None:
    address = served.wait()
    answer = httpx.get(f"{address}/health", trust_env=False, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["status"] == "UP"
    code = served.stop(number)
    assert code in {-number, 0, 130}
    text = "".join(served.lines)
    assert "hunter2" not in text
    assert "Shutting down" in text
    assert "KeyboardInterrupt" not in text
