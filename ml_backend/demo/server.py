"""A Label Studio of our own: its virtual environment, and the server on SQLite in one folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_backend.demo.processes import Child, DemoError, run_logged

REQUIREMENTS = Path(__file__).with_name("label-studio-requirements.txt")
_STAMP = "installed-requirements.sha256"
_EMPTY_DATABASE = "empty-database.sqlite3"
_DATABASE = "label_studio.sqlite3"
_START_SECONDS = 300.0  # ten on a free core
_KEPT_FROM_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def ensure_environment(folder: Path, *, log: Path, tell: Callable[[str], None]) -> Path:
    """Make sure that ``folder`` is a virtual environment with the pinned Label Studio; returns its program.

    A finished environment carries a stamp with the hash of the requirements: it is used as it is, an unfinished or
    outdated one is made anew.

    Raises:
        DemoError: it could not be made.
    """
    program = folder / "bin" / "label-studio"
    stamp = folder / _STAMP
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text().strip() == wanted and program.exists():
        return program
    tell(f"installing Label Studio into {folder} (once; about 1 GB and two minutes)")
    if folder.exists():
        if not (folder / "pyvenv.cfg").is_file():
            raise DemoError(f"{folder} exists and is no virtual environment: move it away or name another folder")
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    cwd = folder.parent
    run_logged([sys.executable, "-m", "venv", str(folder)], log=log, what="making the environment", cwd=cwd, tell=tell)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-r"]
    run_logged([*pip, str(REQUIREMENTS)], log=log, what="installing Label Studio", cwd=cwd, tell=tell)
    _make_empty_database(program, folder / _EMPTY_DATABASE, log=log, tell=tell)
    stamp.write_text(wanted + "\n")
    return program


def _make_empty_database(program: Path, target: Path, *, log: Path, tell: Callable[[str], None]) -> None:
    """Run Label Studio's some 300 migrations once: half a minute of computing that no later start pays again."""
    tell("building Label Studio's empty database (once)")
    with tempfile.TemporaryDirectory() as scratch:
        env = server_environment(Path(scratch), 0, "", "")
        what = "building the database"
        command = [str(program), "version"]  # any command migrates first; this one does nothing more
        run_logged(command, log=log, what=what, cwd=Path(scratch), tell=tell, env=env)
        shutil.copyfile(Path(scratch) / _DATABASE, target)


def server_environment(folder: Path, port: int, email: str, password: str) -> dict[str, str]:
    """The environment of a private Label Studio: SQLite in ``folder``, no analytics, local ML backends allowed.

    Only a few variables of ours pass: Label Studio also reads bare names such as ``HOST``, ``PORT`` and ``DEBUG``.
    """
    env = {key: os.environ[key] for key in _KEPT_FROM_ENVIRONMENT if key in os.environ}
    return env | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_HOST": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_USERNAME": email,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Since 1.23.1 an ML backend at a private address is refused (403) unless this is off.
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        "LABEL_STUDIO_DJANGO_DB": "sqlite",
        "LABEL_STUDIO_LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@dataclass(frozen=True)
class LabelStudioServer:
    """A running Label Studio: where it is and who may log in."""

    child: Child
    url: str
    email: str
    password: str

    @classmethod
    def start(
        cls,
        program: Path,
        *,
        folder: Path,
        log: Path,
        port: int,
        email: str,
        password: str,
        adopt: Callable[[Child], None] | None = None,
    ) -> LabelStudioServer:
        """Start it on ``127.0.0.1:port`` with its data in ``folder`` and wait until it answers.

        ``adopt`` as in `Child.start`.

        Raises:
            DemoError: it did not come up.
        """
        folder.mkdir(parents=True, exist_ok=True)
        empty = program.parent.parent / _EMPTY_DATABASE
        if empty.is_file() and not (folder / _DATABASE).exists():
            shutil.copyfile(empty, folder / _DATABASE)
        command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
        env = server_environment(folder, port, email, password)
        url = f"http://127.0.0.1:{port}"
        how = {"log": log, "env": env, "cwd": folder, "adopt": adopt}
        child = Child.serve("Label Studio", command, f"{url}/health", _START_SECONDS, **how)
        return cls(child=child, url=url, email=email, password=password)
