"""Is Label Studio there, and does it take our token."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from ml_backend.doctor.diagnosis import Diagnosis, of_error, ok, problem, warning
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError, jwt_claims
from ml_backend.settings import Settings

SERVER, TOKEN = "label studio", "token"
_KINDS = {"legacy": "a legacy token", "personal": "a personal access token", "access": "a short-lived access token"}
_MAKE_TOKEN = "make a personal access token under Account & Settings > Personal Access Token, set LABEL_STUDIO_API_KEY"  # noqa: S105
_LEGACY_KEY = re.compile(r"[0-9a-fA-F]{40}")
_CHECK_URL = "set LABEL_STUDIO_URL to the address at which this machine opens Label Studio, sub-path included"
_GUARDED_SINCE = (1, 23, 1)


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at the address: its diagnoses, whether it is a Label Studio, and its version ("" if unknown)."""

    diagnoses: tuple[Diagnosis, ...]
    answers: bool
    version: str = ""

    @property
    def guards_addresses(self) -> bool:
        """Whether this version refuses backends at private addresses by default; True if the version is unknown."""
        numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.version)
        return numbers is None or tuple(int(part or 0) for part in numbers.groups()) >= _GUARDED_SINCE


def not_configured() -> Diagnosis:
    """The diagnosis where no address is set."""
    return problem(
        SERVER,
        "No address of Label Studio is set, so images that it keeps cannot be fetched.",
        "set LABEL_STUDIO_URL to its address as the backend reaches it, or give --url",
    )


def examine_server(client: LabelStudioClient) -> Server:
    """Ask for ``/api/version``, which needs no token."""
    base = client.origin.base
    try:
        response = client.request("GET", "/api/version")
    except LabelStudioError as error:
        return Server((_unreachable(base, error),), False)
    if response.is_redirect:
        # Only the origin is told: the rest of a redirect may hold anything.
        target = response.headers.get("location", "").partition("?")[0][:120]
        text = f"{base} sends us on to {target}, and the token is not sent along redirects."
        return Server((problem(SERVER, text, f"{_CHECK_URL} (the one after the redirect)"),), False)
    version = _version(response)
    if version is None:
        return Server((problem(SERVER, f"{base} answers, but not as Label Studio does.", _CHECK_URL),), False)
    return Server((ok(SERVER, f"Label Studio {version or 'of an unknown version'} answers at {base}."),), True, version)


def examine_token(client: LabelStudioClient, settings: Settings) -> tuple[Diagnosis, ...]:
    """The kind of the token, and whether Label Studio takes it."""
    kind = client.tokens.kind
    if kind == "none":
        return (problem(TOKEN, "No token is set.", _MAKE_TOKEN),)
    name = _KINDS[kind]
    key = settings.label_studio_api_key.get_secret_value().strip() if settings.label_studio_api_key else ""
    expires = (jwt_claims(key) or {}).get("exp")
    if isinstance(expires, int | float) and expires < time.time():
        return (problem(TOKEN, f"LABEL_STUDIO_API_KEY is {name} that has expired.", _MAKE_TOKEN),)
    try:
        user = client.whoami()
    except LabelStudioError as error:
        if error.status == 401 and kind == "legacy" and not _LEGACY_KEY.fullmatch(key):
            looks = "a personal access token of which a part is missing" if key.startswith("eyJ") else "no token at all"
            form = "a personal one has three parts with dots, a legacy one 40 hexadecimal digits"
            text = f"LABEL_STUDIO_API_KEY is refused (401) and looks like {looks}: {form}."
            return (problem(TOKEN, text, f"copy it whole, or {_MAKE_TOKEN}"),)
        before = f"LABEL_STUDIO_API_KEY is {name}, and it does not work: "
        return (of_error(TOKEN, error, _MAKE_TOKEN, before=before),)
    if kind == "access":
        text = "LABEL_STUDIO_API_KEY is a short-lived access token, which stops working within minutes."
        return (warning(TOKEN, text, _MAKE_TOKEN),)
    who = user.get("email") or user.get("username") or "unknown" if isinstance(user, dict) else "unknown"
    return (ok(TOKEN, f"LABEL_STUDIO_API_KEY is {name} of {who}, and it works."),)


def _version(response: Any) -> str | None:
    """The release out of ``/api/version``; None if that is no answer of Label Studio."""
    try:
        answer = response.json()
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    release = answer.get("release")
    if isinstance(release, str):
        return release
    return "" if any("label-studio" in str(key) for key in answer) else None


def _unreachable(base: str, error: LabelStudioError) -> Diagnosis:
    message = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in message:
        text = f"The certificate of {base} is not signed by an authority that is trusted here."
        return problem(SERVER, text, "set INT_CA_BUNDLE to a PEM file with your certificate authority")
    if error.status in (401, 403):
        text = f"{base} asks for credentials of its own ({error.status}); that is a proxy, or no Label Studio."
        return problem(SERVER, text, _CHECK_URL)
    if error.status:
        return problem(SERVER, f"{base} answers {error.status}.", _CHECK_URL)
    return of_error(SERVER, error, _CHECK_URL)
