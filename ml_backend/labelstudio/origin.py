"""Where a Label Studio lives, and which addresses are its own."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import httpx

_MOST_ENCODINGS = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a Label Studio lives: scheme, host, port and the path it is mounted under ("" or ``/label-studio``)."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, base_url: str) -> Origin:
        """Parse a base address. Raises ``ValueError`` if it is none."""
        try:
            url = httpx.URL(base_url.strip().rstrip("/"))
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError(f"'{base_url}' is not an address like http://label-studio:8080") from error
        if url.scheme not in ("http", "https") or not url.host or "%" in url.host:
            raise ValueError(f"'{base_url}' is not an address like http://label-studio:8080")
        return cls(url.scheme, url.host, url.port or _default_port(url.scheme), url.path.rstrip("/"))

    @property
    def base(self) -> str:
        """The address without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _default_port(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def resolve(self, address: str) -> str:
        """A path of this Label Studio (``/data/upload/...``, with or without the sub-path) as a full address."""
        tail = address if address.startswith("/") else f"/{address}"
        if self.path and (tail == self.path or tail.startswith(f"{self.path}/")):
            tail = tail[len(self.path) :]
        return self.base + tail

    def owns(self, url: httpx.URL) -> bool:
        """Whether an address is on this very origin and below its path, however a server may read the path."""
        same = (url.scheme, url.host, url.port or _default_port(url.scheme)) == (self.scheme, self.host, self.port)
        if not same or url.userinfo or _climbs(url.path):
            return False
        return not self.path or url.path == self.path or url.path.startswith(f"{self.path}/")

    def serves_file(self, url: httpx.URL, task_id: int | None) -> bool:
        """Whether an address of ours is that of a file: only with requests for those may the token go along.

        Tasks name the addresses, and who may import tasks need not be allowed what the token is.
        """
        if not self.owns(url):
            return False
        below = url.path.removeprefix(self.path)
        own = ("presign", "resolve") if task_id is not None else ()
        return below.startswith(("/data/", "/storage-data/")) or below.rstrip("/") in {
            f"/tasks/{task_id}/{action}" for action in own
        }


def _climbs(path: str) -> bool:
    """Whether any server could read a step upwards in a path: encoded again, with backslashes, with parameters."""
    for _ in range(_MOST_ENCODINGS):
        steps = path.replace("\\", "/").split("/")
        if ".." in (step.partition(";")[0].strip() for step in steps):
            return True
        plain = unquote(path)
        if plain == path:
            return False
        path = plain
    return True


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
