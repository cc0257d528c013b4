"""Where hostile inputs are tried: a backend on a real socket, Label Studio, servers that misbehave, and a neighbour.

The neighbour listens on a private address and must never hear of anything.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import pytest

from tests.support.clickable import Clickable
from tests.support.harness import GOOD, POLYGONS, Backend, backend
from tests.support.http_server import HttpServer, Raw, Reply, Request, http_server
from tests.support.label_studio import LabelStudio, label_studio
from tests.support.misbehaving import misbehave

USER, PASSWORD, TOKEN = "anna", "schlüssel", "0123456789abcdef"
PUBLIC = "93.184.216.34"
MAX_BODY, MAX_IMAGE = 4_000_000, 1_000_000


def storage(request: Request) -> Reply | Raw | None:
    """A public host's storage: it redirects to what its path says, or misbehaves."""
    if request.path.startswith("/to/"):
        target = base64.urlsafe_b64decode(request.path.removeprefix("/to/"))
        return Raw([b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + target + b"\r\n\r\n"])
    return misbehave(request)


@dataclass
class World:
    """Everything that a row of the table needs; rows give back the text that the sender gets to read."""

    open: Backend
    locked: Backend
    stub: LabelStudio
    neighbour: HttpServer
    storage: HttpServer
    root: Path
    reached: list[tuple[str, int]] = field(default_factory=list)
    names: dict[str, list[list[str]]] = field(default_factory=dict)

    @property
    def stub_address(self) -> tuple[str, int]:
        """Where Label Studio is."""
        return "127.0.0.1", int(self.stub.url.rpartition(":")[2])

    async def resolver(self, host: str, port: int) -> Sequence[str]:
        """Names of this world; a name with several answers gives one after the other, the last one for ever."""
        answers = self.names.get(host)
        if answers is None:  # numbers in any notation, as the system reads them; no name is known
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [str(entry[4][0]) for entry in found]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def problem(self, entry: Any) -> str:
        """Why a task came back as ``[]``."""
        assert entry == [], entry
        return str(self.open.client.get("/status").json()["problems"][-1])

    def image(self, address: Any) -> str:
        """A task with that image beside an honest one."""
        hostile, honest = self.open.predict({"image": address}, GOOD)
        assert honest["result"]
        return self.problem(hostile)

    def upload(self, data: bytes) -> str:
        """A task whose uploaded file, called .jpg, is this."""
        self.stub.files["/data/upload/1/holiday.jpg"] = data
        return self.image("/data/upload/1/holiday.jpg")

    def stored(self, path: str) -> str:
        """A task whose image is at the misbehaving storage."""
        return self.image(f"http://storage.example:{self.storage.port}{path}")

    def redirected(self, target: str) -> str:
        """A task whose image the storage redirects from."""
        return self.stored("/to/" + base64.urlsafe_b64encode(target.encode()).decode())

    def config(self, text: str) -> str:
        """A task under that labeling config."""
        return self.problem(self.open.predict(GOOD, config=text)[0])

    def post(self, body: bytes | str | Iterator[bytes], path: str = "/predict", **headers: str) -> str:
        """A body; status and text of the answer."""
        answer = self.open.client.post(path, content=body, headers={"Content-Type": "application/json"} | headers)
        return f"{answer.status_code} {answer.text}"

    def tasks(self, *tasks: Any) -> str:
        """Tasks as they are; status and text of the answer."""
        body = {"tasks": tasks, "label_config": POLYGONS}
        return self.post(json.dumps(body))

    def click(self, *result: dict[str, Any], data: Any = GOOD) -> str:
        """An interactive request; why it found nothing."""
        body = {"tasks": [{"id": 1, "data": data}], "label_config": POLYGONS, "params": {"context": {"result": result}}}
        (entry,) = json.loads(self.post(json.dumps(body)).removeprefix("200 "))["results"]
        assert entry["result"] == []
        return str(self.open.client.get("/status").json()["problems"][-1])

    def enter(self, path: str, authorization: bytes | None = None, **headers: str) -> str:
        """A page of the backend that asks for a password, the path as it is; status and text."""
        address = self.locked.client.base_url
        sent: Any = {**headers, **({} if authorization is None else {"Authorization": authorization})}
        wire = http.client.HTTPConnection(address.host, address.port, timeout=5)
        try:
            wire.request("GET", path, headers=sent)
            answer = wire.getresponse()
            return f"{answer.status} {answer.read().decode()}"
        finally:
            wire.close()

    def raw(self, data: bytes, seconds: float = 3.0) -> str:
        """Bytes on the wire; what comes back until the backend closes, or nothing more comes."""
        address = self.open.client.base_url
        got = b""
        with socket.create_connection((address.host, address.port or 0), timeout=seconds) as wire:
            try:
                wire.sendall(data)
                wire.shutdown(socket.SHUT_WR)
                while chunk := wire.recv(65536):
                    got += chunk
            except OSError:
                pass
        return got.decode("latin-1")


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """All of it, running."""
    root = folder / "root"
    (root / "sub").mkdir(parents=True)
    (folder / "root-sibling").mkdir()
    for place in (folder / "secret.png", folder / "root-sibling" / "secret.png"):
        place.write_bytes(b"secret")
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "folder").symlink_to(folder)
    (root / "loop.png").symlink_to(root / "loop.png")
    known: list[World] = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        return await known[0].resolver(host, port)

    # The first redirect comes from a host that is allowed, what it leads to is not.
    options: dict[str, Any] = {
        "max_body_bytes": MAX_BODY,
        "max_image_bytes": MAX_IMAGE,
        "image_timeout": 1.0,
        "local_roots": str(root),
        "allowed_hosts": "storage.example",
        "resolver": resolver,
    }
    locked = {"basic_auth_user": USER, "basic_auth_pass": PASSWORD, "open_health": True, "webhook_secret": "hook"}
    with (
        http_server(lambda _: Reply(b"secret")) as neighbour,
        http_server(storage) as storing,
        label_studio(LabelStudio(valid={f"Token {TOKEN}"})) as stub,
        backend(
            folder / "open",
            strategy=Clickable(),
            label_studio_url=stub.url,
            label_studio_api_key=TOKEN,
            **options,
        ) as running,
        backend(folder / "locked", **locked) as guarded,
    ):
        own = World(running, guarded, stub, neighbour, storing, root)
        own.names["storage.example"] = own.names["localhost"] = [["127.0.0.1"]]
        known.append(own)
        yield own


@contextmanager
def watched(own: World) -> Iterator[None]:
    """Notes every connection that the backend makes; the public internet does not answer."""
    plain = httpcore.AnyIOBackend.connect_tcp

    async def connect_tcp(self: Any, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        own.reached.append((host, port))
        if host == PUBLIC:
            raise httpcore.ConnectError("no network in tests")
        return await plain(self, host, port, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
        yield


# --- files ------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, pixels: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8-bit grey with that header; ``pixels`` is the compressed data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = [chunk(b"IHDR", head), *(chunk(*entry) for entry in chunks), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def data_png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
