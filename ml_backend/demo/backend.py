"""Our own backend as a child process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ml_backend.demo.processes import Child

_START_SECONDS = 120.0


def start_backend(
    *,
    port: int,
    profile: str,
    label_studio_url: str,
    token: str,
    folder: Path,
    log: Path,
    adopt: Callable[[Child], None] | None = None,
) -> tuple[Child, str]:
    """Start the backend on ``127.0.0.1:port`` for that Label Studio; returns the child and the address.

    ``adopt`` as in `Child.start`.

    Raises:
        DemoError: it did not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "ml_backend.cli.main"]
    command = [*program, "serve", "--host", "127.0.0.1", "--port", str(port), "--profile", profile]
    env = os.environ | {
        "LABEL_STUDIO_URL": label_studio_url,
        "LABEL_STUDIO_API_KEY": token,
        "INT_DATA_DIR": str(folder),
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }
    url = f"http://127.0.0.1:{port}"
    how = {"log": log, "env": env, "cwd": folder, "adopt": adopt}
    return Child.serve("the backend", command, f"{url}/health", _START_SECONDS, **how), url
