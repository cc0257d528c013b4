"""A real PostgreSQL server of its own, in a temporary folder, reached by a Unix socket."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

ABSENT = "there is no PostgreSQL server; install Debian's package postgresql"


def find_binaries() -> Path | None:
    """The folder of the newest server's programs, or None if there is no server."""
    listed = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name.split(".")[0]))
    return next(
        (p for p in (*listed, *reversed(debian)) if (p / "initdb").exists() and (p / "postgres").exists()), None
    )


@dataclass
class Server:
    """A server; ``folder`` holds its socket and its data. It can be killed and started again."""

    folder: Path
    command: list[Any] = field(default_factory=list)
    run_as: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again over the same data; returns once it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                **self.run_as,
            )
        _wait(self, self.process)

    def kill(self) -> None:
        """End it at once, without a last word to its clients."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None

    def url(self, name: str = "postgres") -> str:
        """The address of one of its databases, as ``DATABASE_URL`` takes it."""
        return f"postgresql://tester@/{name}?host={self.folder}"

    def new_database(self) -> str:
        """The address of an empty schema, which is to us what a database is, without its hundreds of files."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}&options=-csearch_path%3D{name}"


@contextmanager
def postgres_server(binaries: Path, *, durable: bool = False) -> Iterator[Server]:
    """Start a server, and stop it. It never runs as root: the package's user is taken, else nobody.

    Args:
        binaries: see `find_binaries`.
        durable: whether a commit waits for the disk, as in real use.
    """
    folder = Path(tempfile.mkdtemp(prefix="int-pg-"))
    run_as = _unprivileged()
    if run_as:
        os.chown(folder, run_as["user"], run_as["group"])
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C"],
        check=True,
        capture_output=True,
        cwd=folder,
        **run_as,
    )
    lasting = [] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    command = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", *lasting]
    server = Server(folder, command, run_as)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no other user")


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(server.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError((server.folder / "log").read_text(errors="replace")) from None
            time.sleep(0.05)
        else:
            return
