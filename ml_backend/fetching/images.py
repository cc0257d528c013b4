"""Fetching a task's image, safely: the only place where the service follows an address that somebody wrote.

Allowed are uploads and local files of Label Studio, ``http(s)``, ``data:`` and cloud storage through Label Studio's
presigned addresses. The token goes to Label Studio's exact origin only, and there with requests for files only, also
after redirects.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

import httpcore
import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from ml_backend.backoff import TRANSIENT_STATUSES, Backoff, retry_after
from ml_backend.fetching.addresses import AddressPolicy, AddressRefusedError, GuardedBackend, Resolver, resolve
from ml_backend.fetching.errors import FetchError, short_address, too_long
from ml_backend.fetching.local_files import read_local_file
from ml_backend.labelstudio.client import LabelStudioError, unauthorised
from ml_backend.labelstudio.origin import Origin

_CLOUD = ("s3", "s3s", "gs", "azure-blob", "azure_blob", "azure-spi")
_SCHEME = re.compile(r"data(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_ATTEMPTS = 3
_READ_TIMEOUT = 20.0


class Credentials(Protocol):
    """What is needed of Label Studio's tokens."""

    kind: str

    def headers(self) -> dict[str, str]:
        """The ``Authorization`` header."""
        ...

    def forget(self) -> bool:
        """Drop what a 401 was given for; whether to try again."""
        ...


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Caps: bytes of the file, seconds for everything about one image."""

    max_bytes: int = 100 * 1024 * 1024
    timeout: float = 60.0


class ImageFetcher:
    """Fetches files by the addresses that tasks hold. For one event loop; close it there.

    Args:
        origin: Label Studio's, or None if not configured.
        credentials: its tokens, or None.
        policy: private addresses that are allowed besides Label Studio's own.
        local_roots: real paths of the folders that local files may be read from directly.
        limits: caps.
        ca_bundle: PEM file of the authorities to trust.
        hide_names: errors do not name files and folders, which may be called after patients.
        resolver: for tests.
    """

    def __init__(
        self,
        origin: Origin | None = None,
        credentials: Credentials | None = None,
        *,
        policy: AddressPolicy | None = None,
        local_roots: tuple[Path, ...] = (),
        limits: FetchLimits | None = None,
        ca_bundle: Path | None = None,
        hide_names: bool = False,
        resolver: Resolver = resolve,
    ) -> None:
        self._origin = origin
        self._credentials = credentials
        self._roots = local_roots
        self._hide = hide_names
        self._limits = limits or FetchLimits()
        chosen = policy or AddressPolicy()
        if origin is not None:
            trusted = chosen.trusted | {(origin.host.lower(), origin.port)}
            chosen = AddressPolicy(trusted, chosen.hosts, chosen.networks)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None),
            network_backend=GuardedBackend(chosen, resolver),
            max_connections=64,
            keepalive_expiry=15.0,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def fetch(self, address: str, task_id: int | None = None) -> bytes:
        """The file at an address out of a task's data; ``task_id`` is needed for cloud storage.

        Raises:
            FetchError: not allowed, not there, too large, too slow.
        """
        found = _SCHEME.match(address.strip())
        scheme = found.group().lower() if found else ""
        try:
            async with asyncio.timeout(self._limits.timeout):
                if scheme == "data":
                    return await asyncio.to_thread(self._inline, address)
                if not scheme:
                    return await self._from_label_studio(address.strip(), task_id)
                if scheme in _CLOUD:
                    return await self._download(self._presigned(address.strip(), task_id), task_id)
                if scheme in ("http", "https"):
                    return await self._from_web(address.strip(), task_id)
        except TimeoutError:
            raise FetchError(
                f"{self._short(address)} took more than {self._limits.timeout:g} s; raise INT_IMAGE_TIMEOUT or move it",
                transient=True,
            ) from None
        except ValueError as error:
            if isinstance(error, FetchError):
                raise
            told = "" if self._hide else f": {error}"
            raise FetchError(f"{self._short(address)} is not a valid address{told}") from error
        raise FetchError(
            f"images may not come from {self._short(address)}: use uploads, http(s), s3, gs, azure-blob or local "
            "storage"
        )

    def _inline(self, address: str) -> bytes:
        head, _, body = address.partition(",")
        try:
            data = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
        except (binascii.Error, ValueError):
            raise FetchError("the image's data: address is not valid base64") from None
        if len(data) > self._limits.max_bytes:
            raise FetchError(self._too_long("the data: address"))
        return data

    async def _from_web(self, address: str, task_id: int | None) -> bytes:
        url = self._parse(address)
        if self._origin is not None and self._origin.owns(url) and _is_local_file(url.path):
            return await self._from_label_studio(url.raw_path.decode("ascii"), task_id)
        return await self._download(url, task_id)

    async def _from_label_studio(self, address: str, task_id: int | None) -> bytes:
        parts = urlsplit(address)
        if _is_local_file(parts.path):
            name = parse_qs(parts.query, keep_blank_values=True).get("d", [""])[0]
            found = await asyncio.to_thread(read_local_file, self._roots, name, self._limits.max_bytes, hide=self._hide)
            if found is not None:
                return found
        if self._origin is None:
            raise FetchError(
                f"{self._short(address)} is an address inside Label Studio; set LABEL_STUDIO_URL (and "
                "LABEL_STUDIO_API_KEY)"
            )
        url = self._parse(self._origin.resolve(address))
        try:
            return await self._download(url, task_id)
        except _NotFoundError:
            upload = url.path.removeprefix(self._origin.path).removeprefix("/data/")
            if not upload.startswith("upload/"):
                raise
            other = f"/storage-data/uploaded/?filepath={quote(upload)}"  # uploads that are kept in cloud storage
            return await self._download(self._parse(self._origin.resolve(other)), task_id)

    def _presigned(self, address: str, task_id: int | None) -> httpx.URL:
        if self._origin is None or task_id is None:
            raise FetchError(
                f"{self._short(address)} is read through Label Studio; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
            )
        uri = base64.urlsafe_b64encode(address.encode()).decode("ascii")
        return self._parse(self._origin.resolve(f"/tasks/{int(task_id)}/presign/?fileuri={uri}"))

    async def _download(self, url: httpx.URL, task_id: int | None) -> bytes:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_NotNowError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=Backoff(0.3),
            reraise=True,
        )
        return await retrying(self._attempt, url, task_id)

    async def _attempt(self, url: httpx.URL, task_id: int | None, *, renew_token: bool = True) -> bytes:
        try:
            status, headers, body, final = await self._follow(url, task_id)
        except AddressRefusedError as error:
            raise FetchError(str(error)) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise _NotNowError(
                f"{self._short(str(url))} cannot be reached ({type(error).__name__}: {error}); check the address from "
                "where the backend runs"
            ) from error
        if status < 300:
            return body
        ours = self._origin is not None and self._origin.serves_file(final, task_id)
        if status == 401 and ours and renew_token and self._credentials and self._credentials.forget():
            return await self._attempt(url, task_id, renew_token=False)
        raise self._refused(status, final, headers, ours=ours)

    async def _follow(self, url: httpx.URL, task_id: int | None) -> tuple[int, Mapping[str, str], bytes, httpx.URL]:
        """Status, headers, body and final address after at most five redirects; every hop is checked like the first."""
        for _ in range(_MAX_REDIRECTS + 1):
            if url.scheme not in ("http", "https") or not url.host:
                raise FetchError(f"a redirect leads to {self._short(str(url))}, where images may not come from")
            if url.userinfo:
                raise FetchError("addresses with a name and password in them are not followed; remove those")
            status, headers, body = await self._get(url, task_id)
            if status not in _REDIRECTS:
                return status, headers, body, url
            if "location" not in headers:
                raise FetchError(f"{self._short(str(url))} redirects to nowhere")
            url = url.join(self._parse(headers["location"]))
        raise FetchError(f"{self._short(str(url))} redirects more than {_MAX_REDIRECTS} times")

    async def _get(self, url: httpx.URL, task_id: int | None) -> tuple[int, Mapping[str, str], bytes]:
        send: list[tuple[bytes | str, bytes | str]] = [
            ("Host", url.netloc.decode("ascii")),
            ("Accept", "image/*,*/*;q=0.5"),
            ("Accept-Encoding", "identity"),
        ]
        if self._credentials is not None and self._origin is not None and self._origin.serves_file(url, task_id):
            try:
                send += (await asyncio.to_thread(self._credentials.headers)).items()
            except LabelStudioError as error:
                raise FetchError(str(error), transient=error.transient) from error
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        timeouts = {"connect": 10.0, "read": _READ_TIMEOUT, "write": 10.0, "pool": self._limits.timeout}
        async with self._pool.stream("GET", target, headers=send, extensions={"timeout": timeouts}) as response:
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
            if not 200 <= response.status < 300:
                return response.status, headers, b""
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > self._limits.max_bytes:
                raise FetchError(self._too_long(self._short(str(url))))
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > self._limits.max_bytes:
                    raise FetchError(self._too_long(self._short(str(url))))
            return response.status, headers, bytes(body)

    def _too_long(self, what: str) -> str:
        return too_long(what, self._limits.max_bytes)

    def _refused(self, status: int, url: httpx.URL, headers: Mapping[str, str], *, ours: bool) -> FetchError:
        where = self._short(str(url))
        if status == 404:
            return _NotFoundError(f"{where} is not there (404); was the file deleted?")
        if status == 401 and ours:
            return FetchError(f"{where}: {unauthorised(self._credentials.kind if self._credentials else 'none')}")
        if status in (401, 403) and not ours and self._origin is not None and self._origin.owns(url):
            return FetchError(f"{where} may not be read ({status}): the token is sent for files of this task only")
        if status in (401, 403):
            return FetchError(f"{where} may not be read ({status}); give the token's user access to it")
        if status == 500 and ours and "/data/upload/" in url.path:  # so answers 1.23.2 where a file has vanished
            remedy = "was its file deleted? Then upload it again; else Label Studio's log says why"
            return _NotNowError(f"{where}: Label Studio cannot read the upload (500); {remedy}")
        text = f"{where} answered {status}; try it in a browser"
        if status in TRANSIENT_STATUSES:
            return _NotNowError(text, retry_after(headers.get("retry-after")))
        return FetchError(text)

    def _parse(self, address: str) -> httpx.URL:
        try:
            return httpx.URL(address)
        except (httpx.InvalidURL, UnicodeError) as error:
            told = "" if self._hide else f": {error}"
            raise FetchError(f"{self._short(address)} is not a valid address{told}") from None

    def _short(self, address: str) -> str:
        return short_address(address, hide=self._hide)


class _NotFoundError(FetchError):
    pass


class _NotNowError(FetchError):
    """The next attempt may succeed, after as many seconds as the server asked for."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, transient=True)
        self.retry_after = retry_after


def _is_local_file(path: str) -> bool:
    return path.rstrip("/").endswith("/data/local-files")
