"""The entry point that the `label-studio-ml` tooling expects: ``python _wsgi.py --port 9090``, or ``_wsgi:app``.

``int-backend serve`` is the better server (deadline, metrics, status, safe parsing); this is for those who need
upstream's. With gunicorn: one worker, several threads.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    del sys.path[0]  # run as a script: our modules must not stand in for others of the same name

from ml_backend.cli.serve import set_up_logging
from ml_backend.model import IntBackend
from ml_backend.settings import Settings


def make_app(user: str | None = None, password: str | None = None) -> Any:
    """Upstream's WSGI application around our model class."""
    api = importlib.import_module("label_studio_ml.api")
    return api.init_app(model_class=IntBackend, basic_auth_user=user, basic_auth_pass=password)


def main(arguments: Sequence[str] | None = None) -> None:
    """Upstream's development server."""
    parser = argparse.ArgumentParser(description="The backend behind the server of label-studio-ml.")
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default="INFO")
    parser.add_argument("-d", "--debug", action="store_true", help="our own debug messages; never a web debugger")
    parser.add_argument("--check", action="store_true", help="make a model object first")
    parser.add_argument("--basic-auth-user")
    parser.add_argument("--basic-auth-pass")
    given = parser.parse_args(arguments)
    # Only our messages: upstream's debug messages hold whole requests, tokens included.
    set_up_logging("DEBUG" if given.debug else given.log_level)
    settings = Settings(host=given.host)
    if settings.is_open and not given.basic_auth_pass and not settings.open_to_network:
        parser.error(
            f"refused to listen on {given.host} without a password: give --basic-auth-user and --basic-auth-pass, or "
            "set INT_OPEN_TO_NETWORK=true if only those reach it who may"
        )
    if given.check:
        IntBackend(project_id="", label_config=None)
    make_app(given.basic_auth_user, given.basic_auth_pass).run(host=given.host, port=given.port, threaded=True)


if __name__ == "__main__":
    main()
else:
    app = make_app()
