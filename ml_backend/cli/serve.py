"""``int-backend serve``: the HTTP service in this one process, on a socket that is known to be free."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit, urlunsplit

import uvicorn
from pydantic import SecretStr

from ml_backend.api.sockets import BACKLOG, guarded, most_connections, quiet_about_sockets
from ml_backend.cli.patience import wait_for_database
from ml_backend.interpreter import share, share_once
from ml_backend.serving.log_lines import LineFormatter
from ml_backend.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)
GRACE_SECONDS = 10
"""How long requests that are being answered may take once the service was told to stop."""


def masked(settings: Settings) -> list[tuple[str, str]]:
    """Every setting as (name, text); secrets as asterisks, addresses without their password."""
    rows = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = "********"
        elif isinstance(value, str) and "://" in value:
            text = _without_password(value)
        elif isinstance(value, tuple):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        rows.append((name, "-" if value in (None, "", (), {}) else text))
    return rows


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=f"********@{parts.netloc.rpartition('@')[2]}"))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ``ValueError`` that says what to choose instead."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends without delay only where the protocol is named; else each answer waits 40 ms for an acknowledgement
    place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
    except OSError as error:
        place.close()
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None
    return place


def check_data_folder(folder: Path) -> None:
    """Make the folder for projects and results. Raises ``ValueError`` where that, or writing into it, is impossible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"the data folder {folder} cannot be used ({reason}); set INT_DATA_DIR to another") from None


def check_exposure(settings: Settings) -> None:
    """Raises ``ValueError`` where everybody in the network could call, and nobody asked for that by name."""
    if settings.is_open and not settings.open_to_network:
        raise ValueError(
            f"refused to listen on {settings.host} without a password: whoever reaches the port could send images and "
            "start runs with your token; set BASIC_AUTH_USER and BASIC_AUTH_PASS, or listen on 127.0.0.1, or set "
            "INT_OPEN_TO_NETWORK=true if only those reach it who may"
        )
    if settings.basic_auth_pass is not None and settings.webhook_secret is None:
        _log.warning(
            "webhooks are refused, as they bring no password: set INT_WEBHOOK_SECRET, and add the header "
            "X-Webhook-Secret to the webhook under Settings > Webhooks"
        )


def check_redis(settings: Settings) -> None:
    """Look for Label Studio's queues in our database of Redis; a Redis that is not there yet is waited for later.

    Raises ``ValueError`` where REDIS_URL is no address, or names Label Studio's database.
    """
    if settings.redis_url is None or not settings.redis_url.get_secret_value():
        return
    from ml_backend.runs.queues.base import QueueError
    from ml_backend.runs.queues.redis_queue import RedisQueue

    queue = RedisQueue(settings.redis_url.get_secret_value())
    try:
        queue.check()
    except QueueError as error:
        _log.warning("%s", error)
    finally:
        queue.close()


def set_up_logging(level: str, before: str = "") -> None:
    """Our own messages from ``level`` on, other libraries' warnings only: some of them log addresses with tokens.

    ``before`` stands before the text of each message.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s %(name)s: {before}%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("int_model", "ml_backend"):
        logging.getLogger(name).setLevel(level)


def run(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serve until the process is told to stop. ``tell`` gets the lines for people."""
    set_up_logging(settings.log_level)
    check_exposure(settings)
    check_data_folder(settings.data_dir)
    check_redis(settings)
    wait_for_database(settings, _log.warning)
    with listen(settings.host, settings.port) as place:
        from ml_backend.api.app import create_app  # takes seconds; a port that is taken is told at once

        app: FastAPI = create_app(settings)
        port = place.getsockname()[1]
        for name, text in masked(settings):
            tell(f"  {name:<22} {text}")
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        tell(f"listening on http://{host}:{port}")
        if settings.host in ("0.0.0.0", "::"):  # noqa: S104 only compared  # nosec B104
            tell(f"connect it in Label Studio under Settings > Model as http://<address of this machine>:{port}")
        config = uvicorn.Config(
            app,
            log_level=settings.log_level.lower(),
            access_log=settings.log_level == "DEBUG",
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=guarded(most_connections()),
            backlog=BACKLOG,
            loop="asyncio",
        )
        _Server(config).run(sockets=[place])


class _Server(uvicorn.Server):
    _sharing: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        quiet_about_sockets(asyncio.get_running_loop())
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            share()
            engine = cast("FastAPI", self.config.app).state.context.facilities.engine
            self._sharing = asyncio.create_task(share_once(lambda: engine.status.state not in ("idle", "loading")))
