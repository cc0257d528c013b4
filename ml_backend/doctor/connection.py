"""Whether Label Studio reaches the backend: the project's ML connections, their addresses and their webhook."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ml_backend.doctor.diagnosis import Diagnosis, ok, problem, warning
from ml_backend.fetching.addresses import is_public
from ml_backend.labelstudio.connections import our_connection
from ml_backend.settings import Settings

CONNECTION, ADDRESS = "connection", "address"
LookUp = Callable[[str], Sequence[str]]
"""All addresses of a host name, [] if it has none here."""

_FLAG = "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"
_CONNECT = (
    "connect it under Settings > Model > Connect Model, e.g. as http://localhost:9090 (compose: http://backend:9090)"
)
_LOOPBACK = "in a container, localhost is that container: use the service's name, or host.docker.internal"


@dataclass(frozen=True, slots=True)
class Connected:
    """The project's connection to us.

    Attributes:
        diagnoses: what was found.
        title: of the connection, or "".
        version: the model version that Label Studio last got from it, or "".
        extra_params: of the connection.
        interactive: whether clicks are sent to it.
    """

    diagnoses: tuple[Diagnosis, ...]
    title: str = ""
    version: str = ""
    extra_params: Any = None
    interactive: bool = False


def examine_connection(
    rows: Any, webhooks: Any, settings: Settings, *, running: bool, guarded: bool, look_up: LookUp
) -> Connected:
    """Judge the answers of ``/api/ml?project=`` and ``/api/webhooks/?project=``.

    Args:
        rows: the connections; Label Studio calls each before it answers, so their state is fresh.
        webhooks: the project's webhooks, or None if they could not be read.
        settings: ours.
        running: whether the backend answers on this machine.
        guarded: whether this Label Studio refuses private addresses by default.
        look_up: resolves host names.
    """
    listed = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    if not listed:
        remedy = f"{_CONNECT}; start Label Studio with {_FLAG} if that is a private address" if guarded else _CONNECT
        return Connected((problem(CONNECTION, "The project has no connection to an ML backend.", remedy),))
    ours = our_connection(listed, settings.port)
    if ours is None:
        titles = ", ".join(repr(_text(row, "title")) for row in listed)
        text = f"None of the project's connections is recognisably this backend: {titles}."
        return Connected((problem(CONNECTION, text, _CONNECT),))
    found = _state(ours, settings, running=running)
    found += _address(ours, webhooks, settings, guarded=guarded, look_up=look_up)
    if ours is not listed[0]:
        text = f"Label Studio takes predictions from the first connection only, '{_text(listed[0], 'title')}'."
        found.append(problem(CONNECTION, text, "delete the other connection under Settings > Model"))
    elif len(listed) > 1:
        others = ", ".join(repr(_text(row, "title")) for row in listed[1:])
        text = f"Of {len(listed)} ML backends only the first, this one, is asked for predictions of many tasks; "
        found.append(ok(CONNECTION, f"{text}{others} never {'is' if len(listed) == 2 else 'are'}."))
    return Connected(
        tuple(found),
        _text(ours, "title"),
        _text(ours, "model_version"),
        ours.get("extra_params"),
        ours.get("is_interactive") is True,
    )


def _state(row: Mapping[str, Any], settings: Settings, *, running: bool) -> list[Diagnosis]:
    url, state = _text(row, "url"), row.get("state")
    wants_login = settings.basic_auth_user is not None
    if wants_login and row.get("auth_method") != "BASIC_AUTH":
        text = "The backend asks for a name and password, and the connection has none."
        remedy = (
            "edit the connection under Settings > Model: Basic authentication with BASIC_AUTH_USER and BASIC_AUTH_PASS"
        )
        return [problem(CONNECTION, text, remedy)]
    if wants_login and row.get("basic_auth_user") != settings.basic_auth_user:
        text = "The connection logs in under another name than BASIC_AUTH_USER."
        return [problem(CONNECTION, text, "enter BASIC_AUTH_USER and BASIC_AUTH_PASS under Settings > Model")]
    if state == "ER":
        reason = " ".join(_text(row, "error_message").split())[:300] or "no reason given"
        text = f"Label Studio reaches {url}, but /setup failed: {reason}"
        return [problem(CONNECTION, text, "look into the backend's log, and at its /status page")]
    if state == "DI":
        start = "" if running else "start the backend (int-backend serve); "
        remedy = f"{start}check that {url}/health opens on the machine where Label Studio runs; {_LOOPBACK}"
        return [problem(CONNECTION, f"Label Studio cannot reach {url}.", remedy)]
    version = _text(row, "model_version")
    return [ok(CONNECTION, f"Label Studio reaches {url}{f' and got the model version {version}' if version else ''}.")]


def _address(
    row: Mapping[str, Any], webhooks: Any, settings: Settings, *, guarded: bool, look_up: LookUp
) -> list[Diagnosis]:
    url = _text(row, "url")
    private = _is_private(url, look_up)
    if row.get("state") == "DI" and private and guarded:
        text = f"{url} is a private address; since 1.23.1 Label Studio refuses those (403 reserved network address)."
        remedy = f"start Label Studio with {_FLAG}; a public address with Basic auth does without"
        return [warning(ADDRESS, text, remedy)]
    if row.get("state") == "DI" or not isinstance(webhooks, list):
        return []
    wanted = f"{url.rstrip('/')}/webhook"
    hook = next((h for h in webhooks if isinstance(h, Mapping) and _text(h, "url").rstrip("/") == wanted), None)
    if hook is None:
        text = f"The connection has no webhook {wanted}; it was refused if only ML_BLOCK_LOCAL_IP=false was given."
        remedy = f"start Label Studio with {_FLAG}, then delete the connection and make it again"
        return [warning(ADDRESS, text, remedy)]
    if hook.get("is_active") is False:
        return [warning(ADDRESS, "The connection's webhook is switched off.", "switch it on under Settings > Webhooks")]
    headers = hook.get("headers")
    if settings.webhook_secret is not None and not _has_secret(headers):
        text = "INT_WEBHOOK_SECRET is set, but the webhook does not send it."
        remedy = "add the header X-Webhook-Secret to the webhook under Settings > Webhooks"
        return [warning(ADDRESS, text, remedy)]
    kind = "private" if private else "public"
    return [ok(ADDRESS, f"Label Studio may call the {kind} address {url}, and has its webhook.")]


def _has_secret(headers: Any) -> bool:
    return isinstance(headers, Mapping) and any(str(key).lower() == "x-webhook-secret" for key in headers)


def _is_private(url: str, look_up: LookUp) -> bool:
    """Whether the host is, or resolves to, no public address; a name that is not known here counts as private."""
    try:
        host = (urlsplit(url).hostname or "").strip("[]")
    except ValueError:
        return True
    try:
        addresses: Sequence[str] = [str(ipaddress.ip_address(host))]
    except ValueError:
        addresses = look_up(host)
    return not addresses or any(not is_public(ipaddress.ip_address(a.partition("%")[0])) for a in addresses)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""
