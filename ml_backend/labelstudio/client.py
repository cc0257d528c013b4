"""Client for Label Studio's REST API: both kinds of token, sub-paths, retries."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt

from ml_backend.backoff import TRANSIENT_STATUSES, Backoff, retry_after
from ml_backend.labelstudio.origin import Origin

_log = logging.getLogger(__name__)
_RETRIED = TRANSIENT_STATUSES | {0}
_REFRESH_EARLY = 60.0
_ACCESS_LIFETIME = 240.0
_REFRESH = "/api/token/refresh/"


class LabelStudioError(RuntimeError):
    """Label Studio refused or could not be reached; the message names the remedy.

    Attributes:
        status: HTTP status; 0 without an answer, or with one that is not JSON.
        retry_after: seconds that Label Studio asked to wait, or None.
        unsent: there was no connection, so the request certainly did nothing.
    """

    def __init__(
        self, message: str, status: int = 0, *, retry_after: float | None = None, unsent: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.unsent = unsent

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later: no answer, half of one, too many requests, a server's fault."""
        return self.status in (0, 408, 425, 429) or self.status >= 500


def jwt_claims(token: str) -> dict[str, Any] | None:
    """The claims of a JWT (not verified), or None if the text is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(header, dict) and "alg" in header and isinstance(claims, dict) else None


class Tokens:
    """Makes the ``Authorization`` header from a legacy token or a personal access token. Safe between threads.

    A personal access token is a JWT that must be exchanged for a short-lived one; that is kept, and renewed a minute
    early. Anything else is a legacy token.
    """

    def __init__(self, token: str, exchange: Callable[[str], str], clock: Callable[[], float] = time.time) -> None:
        self._token = token.strip()
        self._exchange = exchange
        self._clock = clock
        self._lock = threading.Lock()
        self._access = ""
        self._expires = 0.0
        claims = jwt_claims(self._token)
        self.kind = "none" if not self._token else "legacy" if claims is None else "personal"
        if claims is not None and claims.get("token_type") == "access":
            self.kind = "access"

    def headers(self) -> dict[str, str]:
        """``Authorization``, or nothing without a token. May exchange the token over the network."""
        if self.kind == "none":
            return {}
        if self.kind == "legacy":
            return {"Authorization": f"Token {self._token}"}
        if self.kind == "access":
            return {"Authorization": f"Bearer {self._token}"}
        with self._lock:
            if not self._access or self._clock() >= self._expires:
                access = self._exchange(self._token)
                claims = jwt_claims(access) or {}
                expires, now = claims.get("exp"), self._clock()
                lifetime = _ACCESS_LIFETIME
                if isinstance(expires, int | float):
                    lifetime = max(float(expires) - now - _REFRESH_EARLY, 5.0)
                self._access, self._expires = access, now + lifetime
            return {"Authorization": f"Bearer {self._access}"}

    def forget(self) -> bool:
        """Drop the exchanged token after a 401; whether trying again makes sense."""
        with self._lock:
            had, self._access = bool(self._access), ""
        return had


class LabelStudioClient:
    """Talks to one Label Studio. Blocking; may be shared between threads.

    Args:
        base_url: e.g. ``http://label-studio:8080`` or ``https://host/label-studio``.
        token: personal access token, legacy token, or "".
        ca_bundle: PEM file of the authorities to trust; None for the usual ones.
        retries: how often a request is repeated after 429, 5xx or no connection (not POST, except after 429).
        sleep: waits between attempts; for tests.
        clock: seconds since 1970; for tests.
        backoff: makes the delays between the attempts of one request; for tests.

    Raises:
        ValueError: ``base_url`` is no address.
    """

    def __init__(
        self,
        base_url: str,
        token: str = "",
        *,
        ca_bundle: Path | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        backoff: Callable[[], Backoff] = lambda: Backoff(0.5),
    ) -> None:
        self.origin = Origin.of(base_url)
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca_bundle)) if ca_bundle else True
        self._http = httpx.Client(verify=verify, timeout=timeout, trust_env=False, follow_redirects=False)
        self._retries = retries
        self._sleep = sleep
        self._backoff = backoff
        self.tokens = Tokens(token, self._exchange, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None, files: Any = None
    ) -> httpx.Response:
        """Send a request below the base address; the answer has a status below 400.

        Args:
            method: of HTTP.
            path: below the base address.
            params: the query.
            body: sent as JSON.
            files: sent as a form in place of ``body``: name, content and type of each file by its field.

        Raises:
            LabelStudioError: no connection, or refused for good.
        """
        try:
            return self._retried(method, path, params=params, json=body, files=files)
        except LabelStudioError as error:
            if error.status != 401 or not self.tokens.forget():
                raise
        return self._retried(method, path, params=params, json=body, files=files)

    def json(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None, files: Any = None
    ) -> Any:
        """As :meth:`request`, the answer's JSON. Raises ``LabelStudioError`` also where it is none."""
        response = self.request(method, path, params=params, body=body, files=files)
        try:
            return response.json()
        except ValueError:
            raise LabelStudioError(
                f"{self.origin.base}{path} did not answer with JSON; is LABEL_STUDIO_URL the address of Label Studio?"
            ) from None

    def whoami(self) -> dict[str, Any]:
        """The user that the token belongs to."""
        user: dict[str, Any] = self.json("GET", "/api/current-user/whoami")
        return user

    def project(self, project_id: int) -> dict[str, Any]:
        """A project's settings."""
        try:
            project: dict[str, Any] = self.json("GET", f"/api/projects/{int(project_id)}")
        except LabelStudioError as error:
            if error.status != 404:
                raise
            raise LabelStudioError(
                f"Label Studio at {self.origin.base} has no project {int(project_id)}, not found (404): it was "
                "deleted, the token's user may not see it, or LABEL_STUDIO_URL lacks the sub-path; check the id",
                404,
            ) from None
        return project

    def projects(self, most: int) -> tuple[dict[int, str], bool]:
        """Titles of the projects that the token's user sees by id, the newest first; whether there are more."""
        query = {"page_size": most, "ordering": "-id", "include": "id,title"}  # no counts: they take it long
        answer = self.json("GET", "/api/projects", params=query)
        rows = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise LabelStudioError("Label Studio does not list its projects; is LABEL_STUDIO_URL its address?")
        found = {row["id"]: str(row.get("title") or "") for row in _with_ids(rows)}
        return found, int(answer.get("count") or 0) > len(rows)

    def views(self, project_id: int) -> dict[int, str]:
        """Titles of the project's Data Manager views by id, in their order."""
        rows = self.json("GET", "/api/dm/views", params={"project": int(project_id)})
        data = {row["id"]: row.get("data") for row in _with_ids(rows)}
        return {number: str(kept.get("title") or "") if isinstance(kept, dict) else "" for number, kept in data.items()}

    def import_predictions(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
        """Push predictions; returns how many Label Studio kept (it drops invalid ones without a word)."""
        path = f"/api/projects/{int(project_id)}/import/predictions"
        answer = self.json("POST", path, body=predictions)
        created = answer.get("created") if isinstance(answer, dict) else None
        if not isinstance(created, int):
            raise LabelStudioError(f"POST {self.origin.base}{path}: the answer does not say how many were created")
        return created

    def connections(self, project_id: int) -> list[dict[str, Any]]:
        """The project's ML backends; Label Studio asks each for its state first, which may take seconds."""
        rows = self.json("GET", "/api/ml", params={"project": int(project_id)})
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def tasks_page(
        self,
        project_id: int,
        page: int,
        page_size: int,
        *,
        view: int | None = None,
        query: Mapping[str, Any] | None = None,
        whole: bool = False,
    ) -> list[dict[str, Any]]:
        """One page of tasks, [] after the last one.

        Args:
            project_id: the project.
            page: from 1.
            page_size: most tasks.
            view: of the Data Manager; its filters, order and selection decide, and ``query`` is not looked at.
            query: filters, order and selection as the Data Manager writes them.
            whole: with annotations and predictions.
        """
        params: dict[str, Any] = {"project": int(project_id), "page": page, "page_size": page_size}
        params["resolve_uri"] = "false"  # addresses as they are in the task, as /predict gets them
        if view is not None:
            params["view"] = view
        if query is not None:
            params["query"] = json.dumps(query, separators=(",", ":"))
        if whole:
            params["fields"] = "all"
        try:
            answer = self.json("GET", "/api/tasks", params=params)
        except LabelStudioError as error:
            if error.status == 404 and page > 1:
                return []
            raise
        tasks = answer.get("tasks") if isinstance(answer, dict) else None
        if not isinstance(tasks, list):
            raise LabelStudioError(f"GET {self.origin.base}/api/tasks: the answer holds no list of tasks")
        return [task for task in tasks if isinstance(task, dict)]

    def update_project(self, project_id: int, change: Mapping[str, Any]) -> None:
        """``PATCH`` a project."""
        self.request("PATCH", f"/api/projects/{int(project_id)}", body=dict(change))

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete one prediction."""
        self.request("DELETE", f"/api/predictions/{int(prediction_id)}")

    def _exchange(self, refresh: str) -> str:
        status, access = 200, None
        try:
            access = self._retried("POST", _REFRESH, json={"refresh": refresh}).json()["access"]
        except LabelStudioError as error:
            if error.status in (400, 401, 403):
                raise LabelStudioError(
                    "Label Studio refused the personal access token: it was revoked or has expired; make a new one "
                    "under Account & Settings > Personal Access Token and set LABEL_STUDIO_API_KEY",
                    error.status,
                ) from None
            if error.status == 0:
                raise
            status = error.status
        except (ValueError, KeyError, TypeError):
            pass  # no JSON, or not that
        if not isinstance(access, str):
            raise LabelStudioError(
                f"{self.origin.base}{_REFRESH} answered {status} without a token; is LABEL_STUDIO_URL the address of "
                "Label Studio?",
                status,
            )
        return access

    def _retried(self, method: str, path: str, **sent: Any) -> httpx.Response:
        repeatable = method in ("GET", "HEAD", "PUT", "DELETE") or path == _REFRESH

        def again(error: BaseException) -> bool:
            if not isinstance(error, LabelStudioError):
                return False
            may_be_done = error.status != 429 and not error.unsent
            return error.status in _RETRIED and (repeatable or not may_be_done)

        retrying = Retrying(
            retry=retry_if_exception(again),
            stop=stop_after_attempt(self._retries + 1),
            wait=self._backoff(),
            sleep=self._sleep,
            before_sleep=before_sleep_log(_log, logging.INFO),
            reraise=True,
        )
        headers = {} if path == _REFRESH else self.tokens.headers()
        return retrying(self._attempt, method, path, headers=headers, **sent)

    def _attempt(self, method: str, path: str, **sent: Any) -> httpx.Response:
        url = self.origin.resolve(path)
        try:
            response = self._http.request(method, url, **sent)
        except httpx.RequestError as error:
            raise LabelStudioError(
                f"Label Studio at {self.origin.base} cannot be reached ({type(error).__name__}: {error}); check "
                "LABEL_STUDIO_URL from where the backend runs (in a container, localhost is that container)",
                unsent=isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
            ) from error
        if response.status_code >= 400:
            asked = retry_after(response.headers.get("retry-after"))
            raise LabelStudioError(self._refusal(method, path, response), response.status_code, retry_after=asked)
        return response

    def _refusal(self, method: str, path: str, response: httpx.Response) -> str:
        where = f"{method} {self.origin.base}{path}"
        if response.status_code == 401:
            return f"{where}: {unauthorised(self.tokens.kind)}"
        if response.status_code == 403:
            return (
                f"{where}: the token's user may not do that (403); add the user to the workspace or use another token"
            )
        if response.status_code == 404:
            return f"{where}: not found (404); check the id and that LABEL_STUDIO_URL has the right sub-path"
        if response.status_code < 500:
            return f"{where}: refused ({response.status_code}): {response.text[:300]}"
        return f"{where}: Label Studio failed ({response.status_code}); look into its log"


def _with_ids(rows: Any) -> list[dict[str, Any]]:
    listed = rows if isinstance(rows, list) else []
    return [row for row in listed if isinstance(row, dict) and isinstance(row.get("id"), int)]


def unauthorised(kind: str) -> str:
    """Why Label Studio says 401 to a token of that kind, and what to do."""
    if kind == "none":
        return "Label Studio wants a token (401); set LABEL_STUDIO_API_KEY to a personal access token"
    if kind == "legacy":
        return (
            "Label Studio refused the legacy token (401): it was reset, or legacy tokens are off, as by default; set "
            "LABEL_STUDIO_API_KEY to a personal access token, or switch legacy tokens on under Organization > "
            "API Tokens Settings"
        )
    return "Label Studio refused the token (401); make a new personal access token and set LABEL_STUDIO_API_KEY"
