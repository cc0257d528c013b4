"""A real redis-server on a free port, with a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from ml_backend.demo.processes import free_port
from tests.support.waiting import required

_START_SECONDS = 20.0


def find_redis_server() -> str:
    """The program; without it the test is skipped, or fails where CI must not pass without it."""
    return required(shutil.which("redis-server"), "no redis-server found: install Debian's package redis-server")


@dataclass
class RedisServer:
    """Keeps nothing on the disk unless ``keeps``, so that a restart loses all; listens on ``socket`` too."""

    program: str
    folder: Path
    port: int = field(default_factory=free_port)
    keeps: bool = False
    socket: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/1"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "yes" if self.keeps else "no", "--appendfsync", "always"]
        command += ["--unixsocket", str(self.socket)] if self.socket else []
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        limit = time.monotonic() + _START_SECONDS
        while True:
            try:
                with self.client as client:
                    client.ping()
            except redis.RedisError:
                assert self.process.poll() is None, (self.folder / "redis.log").read_text()[-2000:]
                assert time.monotonic() < limit, "redis-server does not answer"
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(folder: Path, *, keeps: bool = False, socket: Path | None = None) -> Iterator[RedisServer]:
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(find_redis_server(), folder, keeps=keeps, socket=socket)
    server.start()
    try:
        yield server
    finally:
        server.kill()
