"""The table of hostile inputs: each is refused with a clear error, none reaches out, none takes the service down."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage

from tests.integration.ml_backend.hostile_world import (
    MAX_BODY,
    MAX_IMAGE,
    PASSWORD,
    PUBLIC,
    TOKEN,
    USER,
    World,
    data_png,
    png,
    watched,
    world,
)
from tests.support.harness import GOOD, data_url

Row = tuple[str, Callable[[World], str], str]
"""Name, what is done (gives back what the sender or the operator gets to read), and what that must say."""

PRIVATE = r"it is not on the public internet; if it is yours, add it to INT_ALLOWED_HOSTS"
NOT_FROM = r"images may not come from .*use uploads, http\(s\), s3, gs, azure-blob or local storage"


def at(host: str) -> Callable[[World], str]:
    return lambda w: w.image(f"http://{host}:{w.neighbour.port}/a.png")


ADDRESSES: list[Row] = [
    ("loopback: Label Studio's own host, another port", at("127.0.0.1"), PRIVATE),
    ("loopback as one number", at("2130706433"), PRIVATE),
    ("loopback in hexadecimal", at("0x7f000001"), PRIVATE),
    ("loopback in octal", at("0177.0.0.1"), "not a valid address: Invalid IPv4"),
    ("loopback as one octal number", at("017700000001"), PRIVATE),
    ("loopback, shortened", at("127.1"), PRIVATE),
    ("loopback, another of its addresses", at("127.9.9.9"), PRIVATE),
    ("loopback by name", at("localhost"), PRIVATE),
    ("loopback in IPv6", at("[::1]"), PRIVATE),
    ("unspecified address", at("0.0.0.0"), PRIVATE),  # noqa: S104
    ("unspecified address in IPv6", at("[::]"), PRIVATE),
    ("IPv4 mapped into IPv6", at("[::ffff:127.0.0.1]"), PRIVATE),
    ("IPv4 mapped, in hexadecimal", at("[::ffff:7f00:1]"), PRIVATE),
    ("IPv4 compatible", at("[::127.0.0.1]"), PRIVATE),
    ("IPv4 translated", at("[::ffff:0:127.0.0.1]"), PRIVATE),
    ("IPv4 behind NAT64", at("[64:ff9b::127.0.0.1]"), PRIVATE),
    ("IPv4 in 6to4", at("[2002:7f00:1::]"), PRIVATE),
    ("private 10/8", at("10.0.0.1"), PRIVATE),
    ("private 172.16/12", at("172.31.255.1"), PRIVATE),
    ("private 192.168/16", at("192.168.0.1"), PRIVATE),
    ("carrier's NAT 100.64/10", at("100.64.0.1"), PRIVATE),
    ("cloud metadata, link-local", lambda w: w.image("http://169.254.169.254/latest/meta-data/iam"), PRIVATE),
    ("link-local in IPv6", at("[fe80::1]"), PRIVATE),
    ("unique local in IPv6", at("[fd00:ec2::254]"), PRIVATE),
    ("site-local in IPv6", at("[fec0::1]"), PRIVATE),
    ("multicast", at("224.0.0.1"), PRIVATE),
    ("broadcast", at("255.255.255.255"), PRIVATE),
    ("public name of a private address", lambda w: named(w, ["10.0.0.9"]), PRIVATE),
    ("DNS rebinding: public, then private", lambda w: named(w, [PUBLIC], ["127.0.0.1"]), PRIVATE),
    ("name and password in the address", lambda w: w.image(f"http://u:p@{PUBLIC}/a.png"), "name and password in them"),
    ("file:", lambda w: w.image("file:///etc/passwd"), NOT_FROM),
    ("FILE: in capitals, with a host", lambda w: w.image("FILE://localhost/etc/passwd"), NOT_FROM),
    ("ftp:", lambda w: w.image(f"ftp://127.0.0.1:{w.neighbour.port}/a"), NOT_FROM),
    ("gopher:", lambda w: w.image(f"gopher://127.0.0.1:{w.neighbour.port}/_x"), NOT_FROM),
    ("unix socket", lambda w: w.image("http+unix://%2Fvar%2Frun%2Fdocker.sock/info"), NOT_FROM),
    ("line breaks in the address", lambda w: w.image(f"http://storage.example:{w.storage.port}/a\r\nX: y"), "not a v"),
    ("line breaks in a path", lambda w: w.image("/data/upload/1/a.png\r\nX: y"), "not a valid address"),
    ("not an address at all", lambda w: w.image({"url": ["x"]}), "has no image for <Image name='image'"),
]


def named(w: World, *answers: list[str]) -> str:
    """An image at a name that resolves to these, one after the other."""
    w.names["rebind.example"] = list(answers)
    said = w.image(f"http://rebind.example:{w.neighbour.port}/a.png")
    assert not w.names["rebind.example"][1:]
    return said


def redirect(host: str) -> Callable[[World], str]:
    return lambda w: w.redirected(f"http://{host}:{w.neighbour.port}/a.png")


REDIRECTS: list[Row] = [
    ("redirect to loopback", redirect("127.0.0.1"), PRIVATE),
    ("redirect to loopback in decimal", redirect("2130706433"), PRIVATE),
    ("redirect to a mapped address", redirect("[::ffff:127.0.0.1]"), PRIVATE),
    ("redirect to cloud metadata", lambda w: w.redirected("http://169.254.169.254/latest"), PRIVATE),
    ("redirect without a scheme", lambda w: w.redirected(f"//127.0.0.1:{w.neighbour.port}/a"), PRIVATE),
    (
        "redirect to file:",
        lambda w: w.redirected("file:///etc/passwd"),
        "a redirect leads to file:/+etc/passwd, where images may not come from",
    ),
    ("redirect to gopher:", lambda w: w.redirected("gopher://x/_"), "a redirect leads to gopher://x"),
    ("redirect to data:", lambda w: w.redirected(data_png(png(1, 1))), "a redirect leads to the data: address"),
    ("redirect with a password", lambda w: w.redirected("http://u:p@93.184.216.34/"), "name and password in them"),
    ("redirect in circles", lambda w: circle(w), "redirects more than 5 times"),
    ("redirect from Label Studio to loopback", lambda w: away(w), PRIVATE),
]


def circle(w: World) -> str:
    w.stub.redirects["/data/upload/1/round.png"] = "/data/upload/1/round.png"
    return w.image("/data/upload/1/round.png")


def away(w: World) -> str:
    w.stub.redirects["/data/upload/1/away.png"] = f"http://127.0.0.1:{w.neighbour.port}/a.png"
    return w.image("/data/upload/1/away.png")


def local(query: str) -> Callable[[World], str]:
    return lambda w: w.image(f"/data/local-files/?d={query}")


LEAVES = "leaves its folder; that is not allowed|is a link out of .*; that is not allowed"
LOCAL_FILES: list[Row] = [
    ("traversal", local("../secret.png"), LEAVES),
    ("traversal, encoded", local("%2e%2e%2fsecret.png"), LEAVES),
    ("traversal, encoded twice", local("%252e%252e%252fsecret.png"), r"is not there \(404\)"),
    ("traversal from a folder inside", local("sub/../../secret.png"), LEAVES),
    ("traversal to a folder of like name", local("../root-sibling/secret.png"), LEAVES),
    ("absolute path", local("/etc/passwd"), r"is not there \(404\)"),
    ("absolute path with two slashes", local("//etc/passwd"), r"is not there \(404\)"),
    ("backslashes", local("..%5csecret.png"), r"is not there \(404\)"),
    ("null byte", local("a.png%00.jpg"), LEAVES),
    ("symlink to a file outside", local("link.png"), LEAVES),
    ("symlink to a folder outside", local("folder/secret.png"), LEAVES),
    ("symlink to itself", local("loop.png"), "its links lead in a circle"),
    ("traversal by Label Studio's full address", lambda w: w.image(f"{w.stub.url}/data/local-files?d=../x"), LEAVES),
]


def picture_of(mode: str, size: tuple[int, int], fmt: str) -> bytes:
    out = io.BytesIO()
    PilImage.new(mode, size).save(out, fmt)
    return out.getvalue()


def huge_gif() -> bytes:
    """A GIF whose head and only frame say that they are 65,535 x 65,535."""
    small = picture_of("L", (0x1234, 0x1235), "GIF")
    assert small.count(b"\x34\x12\x35\x12") == 2
    return small.replace(b"\x34\x12\x35\x12", b"\xff\xff\xff\xff")


def text_bomb() -> bytes:
    """A PNG with a comment of 200 MB in 200 kB."""
    return png(1, 1, zlib.compress(b"\0\0"), (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)))


NO_IMAGE = "this is not an image in a supported format"
FILES: list[Row] = [
    ("PNG of more than 100 megapixels", lambda w: w.upload(picture_of("1", (10_001, 10_000), "PNG")),
     "10001 x 10000 pixels, the limit is 100000000"),
    ("decompression bomb, 3.6 gigapixels", lambda w: w.upload(png(60_000, 60_000, zlib.compress(bytes(9)))), "pixels"),
    ("GIF of 4 gigapixels", lambda w: w.upload(huge_gif()), "far too many pixels|65535 x 65535"),
    ("comment bomb in a PNG", lambda w: w.upload(text_bomb()), "truncated or damaged"),
    ("SVG", lambda w: w.upload(b"<svg xmlns='http://www.w3.org/2000/svg'><script>fetch('/')</script></svg>"),
     NO_IMAGE + r" \(it looks like SVG\)"),
    ("SVG with an external entity", lambda w: w.upload(
        f"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'http://127.0.0.1:{w.neighbour.port}/'>]><svg/>".encode()
     ), NO_IMAGE + r" \(it looks like XML\)"),
    ("HTML named .jpg", lambda w: w.upload(b"<!DOCTYPE html><script>alert(1)</script>"), NO_IMAGE + ".*HTML"),
    ("PostScript", lambda w: w.upload(b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run"), NO_IMAGE + ".*PostScript"),
    ("PDF", lambda w: w.upload(b"%PDF-1.7\n"), NO_IMAGE + ".*PDF"),
    ("ZIP", lambda w: w.upload(b"PK\x03\x04" + bytes(99)), NO_IMAGE),
    ("random bytes", lambda w: w.upload(bytes(range(256)) * 8), NO_IMAGE),
    ("empty file", lambda w: w.upload(b""), "the file is empty"),
    ("cut-off PNG", lambda w: w.upload(picture_of("RGB", (300, 300), "PNG")[:200]), "truncated or damaged"),
    ("file that is too long", lambda w: w.upload(b"\x89PNG" + bytes(MAX_IMAGE)), f"more than {MAX_IMAGE} bytes"),
    ("data: that is too long", lambda w: w.image(data_url(bytes(MAX_IMAGE + 1))), f"more than {MAX_IMAGE} bytes"),
    ("data: that is not base64", lambda w: w.image("data:image/png;base64,%%%"), "not valid base64"),
    ("endless body", lambda w: w.stored("/endless"), f"more than {MAX_IMAGE} bytes"),
    ("slow body", lambda w: w.stored("/slow"), "took more than 1 s; raise INT_IMAGE_TIMEOUT"),
    ("slow headers", lambda w: w.stored("/slow-head"), "took more than 1 s; raise INT_IMAGE_TIMEOUT"),
    ("lying content length", lambda w: w.stored("/lying"), f"more than {MAX_IMAGE} bytes"),
    ("short body", lambda w: w.stored("/short"), "cannot be reached|took more than"),
    ("compressed bomb from a storage", lambda w: w.stored("/gzip"), NO_IMAGE),
    ("headers of 5 MB", lambda w: w.stored("/head"), "cannot be reached|took more than"),
    ("another protocol", lambda w: w.stored("/not-http"), "cannot be reached|took more than"),
]  # fmt: skip

LAUGHS = "<!DOCTYPE l [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9)
)
NO_DTD = "declares a DTD or entities, which are not allowed; remove them"
CONFIGS: list[Row] = [
    ("entity expansion in the labeling config", lambda w: w.config(LAUGHS + "]><View>&j;</View>"), NO_DTD),
    ("external entity", lambda w: w.config("<!DOCTYPE v [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><View>&x;</View>"),
     NO_DTD),
    ("external DTD", lambda w: w.config(
        f"<!DOCTYPE v SYSTEM 'http://127.0.0.1:{w.neighbour.port}/evil.dtd'><View/>"), NO_DTD),
    ("parameter entity", lambda w: w.config(
        f"<!DOCTYPE v [<!ENTITY % p SYSTEM 'http://127.0.0.1:{w.neighbour.port}/p'> %p;]><View/>"), NO_DTD),
    ("inclusion", lambda w: w.config(
        '<View xmlns:i="http://www.w3.org/2001/XInclude"><i:include href="file:///etc/passwd"/></View>'), "Needed: an"),
    ("labeling config of 2 MB", lambda w: w.config(f"<View>{' ' * 2_000_000}</View>"), "the limit is 1000000"),
    ("labeling config 40,000 deep", lambda w: w.config("<a>" * 40_000 + "</a>" * 40_000), "labeling config"),
    ("labeling config that is no XML", lambda w: w.config("<View><<<"), "is not valid XML"),
]  # fmt: skip


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 65536


def raw(head: str, body: bytes = b"") -> Callable[[World], str]:
    return lambda w: w.raw(head.replace("\n", "\r\n").encode("latin-1") + body)


def tls_hello(w: World) -> str:
    """A client that speaks TLS to the plain port."""
    hello = ssl.MemoryBIO()
    wrapped = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        wrapped.do_handshake()
    return w.raw(hello.read())


def slow_body(w: World) -> str:
    """A body that stops in the middle while the connection stays open."""
    address = w.open.client.base_url
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.create_connection((address.host, address.port or 0), timeout=10) as wire,
    ):
        patch.setattr("ml_backend.api.bodies._BODY_SECONDS", 0.3)
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        )
        told = b""
        while not told.endswith(b"}"):  # headers and body may come one after the other
            told += wire.recv(65536)
        return told.decode()


HEAD = "POST /predict HTTP/1.1\nHost: x\nContent-Type: application/json\n"
CHUNKED = "Transfer-Encoding: chunked\n\n"
NOT_JSON = "^400 .*the body is not valid JSON"
DEEP = "[" * 100_000 + "]" * 100_000
REQUESTS: list[Row] = [
    ("JSON of more bytes than allowed", lambda w: w.post(b" " * (MAX_BODY + 1)), f"^413 .*has {MAX_BODY + 1} bytes"),
    ("endless chunks", lambda w: w.post(chunks(200)), f"^413 .*more than {MAX_BODY} bytes"),
    ("JSON 100,000 deep", lambda w: w.post('{"tasks": ' + DEEP + "}"), NOT_JSON),
    ("number of 5,000 digits", lambda w: w.post('{"tasks": [{"id": ' + "9" * 5000 + "}]}"), NOT_JSON),
    ("compressed bomb as a body", lambda w: w.post(zlib.compress(bytes(10**8), 9), **{"Content-Encoding": "deflate"}),
     NOT_JSON),
    ("bytes that are no text", lambda w: w.post(b"\xff\xfe\x00\xd8" * 9), NOT_JSON),
    ("XML as a body", lambda w: w.post(LAUGHS + "]><a>&j;</a>"), NOT_JSON),
    ("empty body", lambda w: w.post(b""), NOT_JSON),
    ("list as a body", lambda w: w.post("[1, 2]"), "^400 .*needs to be a JSON object"),
    ("tasks that are no list", lambda w: w.post('{"tasks": "all"}'), "^400 .*a list of tasks"),
    ("NaN and Infinity as ids", lambda w: w.tasks({"id": float("nan")}, {"id": float("inf")}, {"id": 1e308}),
     r'^200 {"results":\[\[\],\[\],\[\]\]}'),
    ("ids that are no numbers", lambda w: w.tasks({"id": "1; DROP TABLE"}, {"id": {}}, {"id": True}, None, 2**80),
     r'^200 {"results":\[\[\],\[\],\[\],\[\],\[\]\]}'),
    ("content length that is too small", raw(HEAD + "Content-Length: 5\n\n", b'{"tasks": []}'), "400 Bad Request"),
    ("content length that is too large", raw(HEAD + "Content-Length: 500\n\n", b'{"tasks": []}'), "^$|400 Bad Request"),
    ("negative content length", raw(HEAD + "Content-Length: -1\n\n"), "400 Bad Request"),
    ("two content lengths", raw(HEAD + "Content-Length: 2\nContent-Length: 9\n\n", b"{}"), "400 Bad Request"),
    ("chunks and a content length", raw(HEAD + "Content-Length: 2\n" + CHUNKED, b"2\r\n{}\r\n0\r\n\r\n"),
     "400 Bad Request"),
    ("broken chunks", raw(HEAD + CHUNKED, b"zz\r\n{}"), "400 Bad Request"),
    ("headers of 200 kB", raw(HEAD + "X: " + "y" * 200_000 + "\n\n"), "400 Bad Request|^$"),
    ("header without a colon", raw(HEAD + "evil\n\n"), "400 Bad Request"),
    ("no HTTP", raw("EHLO example.com\n\n"), "400 Bad Request"),
    ("TLS at the plain port", tls_hello, "400 Bad Request"),
    ("body that never ends arriving", slow_body, "did not arrive within 0.3 s"),
]  # fmt: skip


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


def steal(path: str, **headers: str) -> Callable[[World], str]:
    return lambda w: w.enter(path, **headers)


LOGIN = "^401 .*name and password are needed"
WHO = f"{USER}:{PASSWORD}"
ENTRANCES: list[Row] = [
    ("credentials in another encoding", lambda w: w.enter("/metrics", basic(WHO.encode("latin-1"))), LOGIN),
    ("authorization that is not ASCII", lambda w: w.enter("/metrics", "Basic schlüssel:ü".encode()), LOGIN),
    ("authorization of 40 kB", lambda w: w.enter("/metrics", basic(b"a:" + b"b" * 30_000)), LOGIN),
    ("authorization of another kind", lambda w: w.enter("/metrics", b"Bearer " + TOKEN.encode()), LOGIN),
    ("page behind an open page", steal("/health/../metrics"), LOGIN),
    ("page behind an open page, encoded", steal("/health%2f..%2fmetrics"), LOGIN),
    ("two slashes", steal("//metrics"), LOGIN),
    ("another page named in headers", steal("/status", **{"X-Original-URL": "/health", "X-Forwarded-For": "127.0.0.1"}),
     LOGIN),
    ("webhook with a wrong secret", lambda w: hook(w, "hooK"), "^401"),
    ("webhook with a secret that is not ASCII", lambda w: hook(w, "h\xf6\xf6k"), "^401"),
]  # fmt: skip


def hook(w: World, secret: str) -> str:
    answer = w.locked.client.post("/webhook", json={}, headers={"X-Webhook-Secret": secret.encode("latin-1")})  # type: ignore[dict-item]
    return f"{answer.status_code} {answer.text}"


def point(**value: Any) -> dict[str, Any]:
    return {"type": "keypointlabels", "from_name": "label", "to_name": "image", "original_width": 80,
            "original_height": 60, "value": {"x": 50, "y": 50, "keypointlabels": ["Animal"]} | value}  # fmt: skip


def painted(**value: Any) -> dict[str, Any]:
    return point() | {"type": "brushlabels", "value": {"format": "rle", "brushlabels": ["Animal"]} | value}


def mask(data: bytes) -> dict[str, Any]:
    return point() | {"type": "bitmask", "value": {"imageDataURL": data_png(data)}}


CLICKS: list[Row] = [
    ("click at NaN", lambda w: w.click(point(x=float("nan"))), "x is not a finite number"),
    ("click at infinity", lambda w: w.click(point(y=float("inf"))), "y is not a finite number"),
    ("click at 1e308", lambda w: w.click(point(x=1e308)), "a point lies outside the image"),
    ("stroke of a wrong length", lambda w: w.click(painted(rle=[255] * 99)), "code holds 4294967295 values, an im"),
    ("stroke that says it is huge", lambda w: w.click(painted(rle=[127, *[255] * 3, *[0] * 40])), "2147483647 values"),
    ("stroke that is no numbers", lambda w: w.click(painted(rle=["x", None, 1e99])), "a list of whole numbers 0..255"),
    ("stroke as a picture of 3.6 gigapixels", lambda w: w.click(mask(png(60_000, 60_000, zlib.compress(bytes(9))))),
     "could be decompression bomb"),
    ("click on a file that is no image", lambda w: w.click(point(), data={"image": data_url(b"<svg/>")}), NO_IMAGE),
    ("click on a private address", lambda w: w.click(
        point(), data={"image": f"http://127.0.0.1:{w.neighbour.port}/"}), PRIVATE),
]  # fmt: skip

TABLE = [*ADDRESSES, *REDIRECTS, *LOCAL_FILES, *FILES, *CONFIGS, *REQUESTS, *ENTRANCES, *CLICKS]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as own, watched(own):
        yield own


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("hostile", "said"), [pytest.param(do, said, id=name) for name, do, said in TABLE])
def test_hostile(running: World, hostile: Callable[[World], str], said: str) -> None:
    running.reached.clear()
    told = hostile(running)
    assert re.search(said, " ".join(told.split())), told
    allowed = {("127.0.0.1", running.storage.port), (PUBLIC, running.neighbour.port), running.stub_address}
    assert set(running.reached) <= allowed
    assert running.neighbour.connections == 0
    assert not any(TOKEN in f"{request.target} {request.headers}" for request in running.storage.requests)
    for backend in (running.open, running.locked):
        answer = backend.client.get("/health", timeout=5)
        assert (answer.status_code, answer.json()["status"]) == (200, "UP")


def test_the_table_is_long_enough_and_its_names_differ() -> None:
    assert len(TABLE) >= 30
    assert len({name for name, _, _ in TABLE}) == len(TABLE)


def test_after_all_of_it_honest_work_is_done(running: World) -> None:
    (prediction,) = running.open.predict(GOOD)
    assert prediction["result"]
    (clicked,) = running.open.predict(GOOD, context={"result": [point(x=40, y=40)]})
    assert clicked["result"]
    assert running.open.client.get("/status").json()["tasks_on_their_way"] == 0
    text = json.dumps(running.open.client.get("/status").json())
    assert TOKEN not in text


def test_a_score_that_is_not_a_number_never_leaves(tmp_path: Path) -> None:
    from tests.support.harness import RedThings, backend

    for value in (float("nan"), float("inf"), -3.0, 7.0):
        models = RedThings()
        models.scores["Animal"] = value
        with backend(tmp_path / str(value), strategy=models) as own:
            (entry,) = own.predict(GOOD)
            assert entry == [] or 0.0 <= entry["score"] <= 1.0
            assert all(0.0 <= region["score"] <= 1.0 for region in (entry or {"result": []})["result"])
            assert own.client.get("/health").status_code == 200
