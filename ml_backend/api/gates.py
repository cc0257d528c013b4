"""Who may call at all, before any login: by which name of ours, from which page, with which kind of body.

A browser sends along what it knows (the password of Basic auth, its place in a private network) with whatever a page
asks of it. So pages of other sites are refused, and so are names that are not ours: a name that its owner points to
our address makes his page one of "our own" (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ml_backend.api.middleware import error_response

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_WITH_FORMS = ("/runs/", "/projects/")
_FORM = "application/x-www-form-urlencoded"
_OWN_NAMES = ("localhost", "host.docker.internal", "host.containers.internal")


class HostGate:
    """Refuses (421) requests for a host that is not ours.

    Ours are addresses written as numbers and names without a dot (nobody on the internet can own those), this
    machine's own name, those of container platforms for their host, and ``names``: ``*.example.org`` stands for all
    names below it, ``*`` for any.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        known = [*_OWN_NAMES, socket.gethostname().lower(), *(name.strip().lower() for name in names)]
        self._any = "*" in known
        self._names = frozenset(name for name in known if not name.startswith("*"))
        self._below = tuple(name[1:] for name in known if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._any or self._is_ours(dict(scope["headers"]).get(b"host", b"")):
            await self._app(scope, receive, send)
            return
        response = error_response(
            421, "the backend does not answer to that host name", "add the name to INT_HOSTNAMES, or call it by address"
        )
        await response(scope, receive, send)

    def _is_ours(self, header: bytes) -> bool:
        name = host_of(header.decode("latin-1"))
        if not name:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return "." not in name or name in self._names or name.endswith(self._below)
        return True


def host_of(netloc: str) -> str:
    """The host of a Host header, in lower case, without its port and a dot at its end; "" where it makes no sense."""
    try:
        parts = urlsplit(f"//{netloc}")
        found = (parts.hostname or "").removesuffix(".")
    except ValueError:
        return ""
    return "" if parts.username is not None or parts.path or parts.query else found


class OriginGate:
    """Lets nothing but reading through from pages of other sites (403), and no body that is not JSON (415).

    A form may go to ``/runs``, ``/projects`` and below, where the backend's own pages have some.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not _is_from_here(headers):
            response = error_response(
                403,
                "the request comes from a page of another site",
                "send it from the backend's own page, or without a browser; a proxy must keep the Host header",
            )
        elif not _is_readable(scope["path"], headers):
            response = error_response(
                415, "the body is not sent as JSON", "send it with Content-Type: application/json"
            )
        else:
            await self._app(scope, receive, send)
            return
        await response(scope, receive, send)


def _is_from_here(headers: dict[bytes, str]) -> bool:
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site in ("same-origin", "none")
    if origin is None:
        return True  # programs send none; browsers do with every POST
    try:
        return urlsplit(origin).netloc == headers.get(b"host")
    except ValueError:
        return False


def _is_readable(path: str, headers: dict[bytes, str]) -> bool:
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return True
    if headers.get(b"content-length", "0") == "0" and b"transfer-encoding" not in headers and not kind:
        return True  # no body at all
    return kind == _FORM and f"{path}/".startswith(_WITH_FORMS)
