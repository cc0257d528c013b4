"""Requests that cost more than they weigh, for `benchmarks.attacks`: each attack gives some, sent again and again."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image as PilImage

from tests.support.harness import GOOD, JSON, POLYGONS, data_url

MEGABYTE = 1024 * 1024
SHELL = '<View><Image name="image" value="$image"/>{}</View>'


@dataclass(frozen=True)
class Target:
    """Where the backend and the silent host are."""

    port: int
    silent: int


@dataclass(frozen=True)
class Send:
    """A request; gives back the status. ``again``: the same once more, else the next of the attack."""

    call: Callable[[httpx.Client], int]
    again: bool = True

    def __call__(self, client: httpx.Client) -> int:
        return self.call(client)


def _post(path: str, body: bytes | dict[str, Any], **headers: str) -> Send:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Send(lambda client: client.post(path, content=content, headers=JSON | headers).status_code)


def _predict(*data: Any, config: str = POLYGONS, project: str = "66", **more: Any) -> Send:
    tasks = [{"id": number, "data": entry} for number, entry in enumerate(data, 1)]
    return _post("/predict", {"tasks": tasks, "project": project, "label_config": config, **more})


def _click(value: dict[str, Any]) -> Send:
    region = {"type": "brushlabels", "from_name": "label", "to_name": "image", "original_width": 80,
              "original_height": 60, "value": value}  # fmt: skip
    return _predict(GOOD, params={"context": {"result": [region]}})


def _nested(_: Target) -> Iterator[Send]:
    yield _post("/webhook", b"[" + b"[]," * (15 * MEGABYTE // 3) + b"[]]")


def _bodies_at_the_cap(_: Target) -> Iterator[Send]:
    yield _post("/predict", b'{"tasks": [], "x": "' + b"y" * (64 * MEGABYTE) + b'"}')


def _extra_params(_: Target) -> Iterator[Send]:
    yield _post("/setup", {"project": "66", "schema": POLYGONS, "extra_params": "x" * 10_000_000})


def _project_ids(_: Target) -> Iterator[Send]:
    number = 0
    while True:
        number += 1
        body = json.dumps({"project": f"x{number}", "schema": POLYGONS, "extra_params": "y" * 2000}).encode()
        yield Send(lambda client, b=body: client.post("/setup", content=b, headers=JSON).status_code, again=False)


def _labels(_: Target) -> Iterator[Send]:
    inside = "".join(f"<Label value='{number}'/>" for number in range(20_000))
    config = SHELL.format(f'<PolygonLabels name="label" toName="image">{inside}</PolygonLabels>')
    yield _predict(GOOD, config=config)


def _brushes(_: Target) -> Iterator[Send]:
    config = SHELL.format("".join(f"<Brush name='b{number}' toName='image'/>" for number in range(20_000)))
    yield _predict(GOOD, config=config)


def _prompts(_: Target) -> Iterator[Send]:
    single = '<PolygonLabels name="l{0}" toName="image"><Label value="{0}"/></PolygonLabels>'
    yield _predict(GOOD, config=SHELL.format("".join(single.format(number) for number in range(400))))


def _polygon(_: Target) -> Iterator[Send]:
    yield _click({"points": [[number % 100, 100.0 * (number % 2)] for number in range(99_000)]})


def _runs_of_brush(_: Target) -> Iterator[Send]:
    bits = f"{60 * 80 * 4:032b}" + "00111" + "0010001101111111" + "10000000000000" * 1_200_000
    padded = bits + "0" * (-len(bits) % 8)
    yield _click({"rle": [int(padded[at : at + 8], 2) for at in range(0, len(padded), 8)]})


def _scans(count: int) -> Iterator[bytes]:
    """The same slow picture, each time with other bytes at its end, so that it is no known one."""
    out = io.BytesIO()
    PilImage.new("RGB", (8000, 8000), (200, 10, 10)).save(out, "JPEG", progressive=True)
    plain = out.getvalue()
    file = plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"
    while True:
        yield file + str(time.time()).encode()


def _thousand_scans(_: Target) -> Iterator[Send]:
    for file in _scans(1000):
        send = _predict(*[{"image": data_url(file + bytes([number]))} for number in range(4)])
        yield Send(send.call, again=False)


def _many_scans(_: Target) -> Iterator[Send]:
    for file in _scans(40):
        send = _predict(*[{"image": data_url(file + bytes([number]))} for number in range(4)])
        yield Send(send.call, again=False)


def _large_pngs(_: Target) -> Iterator[Send]:
    out = io.BytesIO()
    PilImage.new("1", (10_000, 10_000)).save(out, "PNG")
    while True:
        files = [out.getvalue() + str(time.time()).encode() + bytes([number]) for number in range(4)]
        yield Send(_predict(*[{"image": data_url(file)} for file in files]).call, again=False)


def _silent_hosts(target: Target) -> Iterator[Send]:
    yield _predict(*[{"image": f"http://127.0.0.1:{target.silent}/{number}.png"} for number in range(48)])


def _slow_pages(target: Target) -> Iterator[Send]:
    config = POLYGONS.replace('value="$image"', 'valueList="$images"')
    pages = [f"http://127.0.0.1:{target.silent}/{number}.png" for number in range(10_000)]
    yield _predict({"images": pages}, config=config)


def _log_flood(_: Target) -> Iterator[Send]:
    text = "x\n2026-01-01 ERROR forged\x1b[31m" + "y" * 5000
    yield _predict(*[{f"{text}{number}": 1} for number in range(200)], project=text)


def _foreign_pages(_: Target) -> Iterator[Send]:
    yield _post("/setup", {"project": "1"}, Origin="http://evil.example")


def _half_requests(target: Target) -> Iterator[Send]:
    """Connections that send half a header and then nothing."""

    def call(_: httpx.Client) -> int:
        wires = []
        try:
            for _number in range(50):
                wires.append(socket.create_connection(("127.0.0.1", target.port), timeout=5))
                wires[-1].sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nX: ")
            time.sleep(2.0)
        except OSError:
            return 0
        finally:
            for wire in wires:
                wire.close()
        return 1

    yield Send(call)


ATTACKS: dict[str, Callable[[Target], Iterator[Send]]] = {
    "15 MB of nested lists": _nested,
    "64 MB bodies": _bodies_at_the_cap,
    "10 MB of extra params": _extra_params,
    "project ids": _project_ids,
    "20,000 labels": _labels,
    "20,000 brushes": _brushes,
    "400 prompts": _prompts,
    "polygon of 99,000 points": _polygon,
    "1,200,000 shortest runs": _runs_of_brush,
    "JPEGs of 1,000 scans": _thousand_scans,
    "JPEGs of 40 scans": _many_scans,
    "PNGs of 100 megapixels": _large_pngs,
    "48 silent hosts": _silent_hosts,
    "10,000 slow pages": _slow_pages,
    "log flood": _log_flood,
    "foreign pages": _foreign_pages,
    "half requests": _half_requests,
}
