"""Inputs that nobody thought of: ``python -m benchmarks.fuzz parsers`` and ``python -m benchmarks.fuzz requests``.

``parsers`` is coverage-guided: an input is kept, and changed further, if it reaches a step from one line to another
that no input reached before, in the files named with the target. An input is a finding if the parser raises what it
does not document, takes longer than two seconds, or lets the process grow by more than 512 MB; it is written to
``--out``. What was found and mended, and small inputs that reach far (``--keep 12`` adds them), are kept in
``tests/support/fuzz``: a test replays them.

``requests`` sends a running backend (whose models only look for red) bodies made from honest ones by random changes,
and raw bytes; a finding is a status of 500 and above, or no answer to ``/health`` afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from int_model.io.errors import ImageError
from int_model.io.images import decode_image
from int_model.io.medical.dicom import decode_dicom
from int_model.models.protocols import CoordinateFrame
from int_model.strategies.negative_mining.candidates import parse_boxes, parse_name
from ml_backend.labelstudio.label_config import ConfigError, parse_label_config
from ml_backend.labelstudio.regions.rle import decode_alpha
from tests.support.harness import CONFIGS, GOOD, POLYGONS, backend

KEPT = Path(__file__).resolve().parents[1] / "tests" / "support" / "fuzz"
SECONDS, MEGABYTES = 2.0, 512
_PIXELS = 4_000_000


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _rle(data: bytes) -> None:
    height, width = (data[0] % 40 + 1, data[1] % 40 + 1) if len(data) > 1 else (1, 1)
    decode_alpha(list(data[2:]), height, width)


def _boxes(data: bytes) -> None:
    frame = CoordinateFrame()
    for box in parse_boxes(_text(data), frame, 120, 160):
        if not (0 <= box.x1 < box.x2 <= 160 and 0 <= box.y1 < box.y2 <= 120):
            raise AssertionError(f"{box} is not in the image")


@dataclass(frozen=True)
class Target:
    """A parser, what it may raise, the files whose steps count as coverage, and words of its language."""

    parse: Callable[[bytes], object]
    expected: tuple[type[Exception], ...]
    files: tuple[str, ...]
    words: tuple[bytes, ...] = ()


TARGETS = {
    "config": Target(
        lambda data: parse_label_config(_text(data)),
        (ConfigError,),
        ("label_config.py", "ElementTree.py"),
        tuple(b"""<Image |name="|value="$|toName="|<PolygonLabels|<Label |/>|</View>|&lt;|[0]| """.split(b"|")),
    ),
    "rle": Target(_rle, (ValueError,), ("rle.py",), (b"\x00\x00", b"\xff\xff", b"\x07")),
    "boxes": Target(_boxes, (), ("candidates.py",), tuple(b'[ ] ( , 0.5 1000 nan - 1e9 bbox {" :'.split())),
    "names": Target(
        lambda data: parse_name(_text(data)), (), ("candidates.py",), tuple(b'The |```|**|{|"name": |<|\n'.split(b"|"))
    ),
    "image": Target(
        lambda data: decode_image(data, max_pixels=_PIXELS),
        (ImageError,),
        ("images.py", "tiff.py", "TiffImagePlugin.py", "PngImagePlugin.py", "BmpImagePlugin.py", "GifImagePlugin.py"),
    ),
    "dicom": Target(
        lambda data: decode_dicom(data, max_pixels=_PIXELS), (ImageError,), ("dicom.py", "filereader.py", "filebase.py")
    ),
}


class TooSlowError(Exception):
    """The parser took too long."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(target: Target, data: bytes, seconds: float = SECONDS) -> str:
    """What is wrong with how an input is taken, or ""."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _limited(seconds):
            target.parse(data)
    except target.expected:
        pass
    except TooSlowError:
        return f"took more than {seconds:g} s"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"[:300]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"grew by {grown:.0f} MB" if grown > MEGABYTES else ""


def _steps(target: Target, data: bytes) -> tuple[str, set[tuple[int, int, int]]]:
    """What is wrong, and the steps between lines of the target's files."""
    seen: set[tuple[int, int, int]] = set()

    def called(frame: FrameType, _event: str, _value: object) -> Any:
        if not frame.f_code.co_filename.endswith(target.files):
            return None
        code, last = hash(frame.f_code.co_name), 0

        def stepped(frame: FrameType, event: str, _value: object) -> Any:
            nonlocal last
            if event == "line":
                seen.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return stepped

        return stepped

    sys.settrace(called)
    try:
        return attempt(target, data), seen
    finally:
        sys.settrace(None)


def changed(data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    """A neighbour of an input: one to four changes of a bit, a byte, a piece, a word, or a splice with another."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(8):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(made):
                made[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2:
                del made[at:end]
            case 3:
                made[at:at] = made[at:end] * rng.choice((1, 2, 50))
            case 4 | 5 if words:
                made[at:at] = rng.choice(words)
            case 6:
                other = rng.choice(others)
                made[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                made[at:end] = rng.randbytes(end - at)
    return bytes(made[:65536])


@dataclass
class Fuzzed:
    """What became of a target: how many inputs, steps reached, findings, and the inputs that reached more."""

    inputs: int
    steps: int
    findings: dict[str, bytes]
    corpus: list[bytes]


def fuzz(target: Target, seeds: Sequence[bytes], seconds: float, rng: random.Random) -> Fuzzed:
    """Look for findings for so long."""
    corpus, reached, findings, count = [], set[tuple[int, int, int]](), dict[str, bytes](), 0
    until, waiting = time.monotonic() + seconds, list(seeds)
    while time.monotonic() < until:
        data = waiting.pop() if waiting else changed(rng.choice(corpus), corpus, target.words, rng)
        wrong, steps = _steps(target, data)
        count += 1
        if wrong:
            findings.setdefault(wrong[:60], data)
        if steps - reached or not corpus:
            reached |= steps
            corpus.append(data)
    return Fuzzed(count, len(reached), findings, corpus)


def farthest(target: Target, corpus: Sequence[bytes], most: int, longest: int = 4096) -> list[bytes]:
    """Short inputs that together reach the most steps, each more than those before it: at most so many."""
    left = {data: _steps(target, data)[1] for data in corpus if len(data) <= longest}
    chosen, reached = list[bytes](), set[tuple[int, int, int]]()
    while left and len(chosen) < most:
        best = max(left, key=lambda data: (len(left[data] - reached), -len(data)))
        if not left[best] - reached:
            break
        chosen.append(best)
        reached |= left.pop(best)
    return chosen


def parsers(given: argparse.Namespace) -> int:
    """Fuzz the targets; how many findings there are."""
    total = 0
    sys.stdout.write("| target | inputs | steps reached | findings |\n| --- | --- | --- | --- |\n")
    for name in given.targets or TARGETS:
        rng = random.Random(f"{given.seed}/{name}")  # noqa: S311 - reproducible, no secret
        seeds = [file.read_bytes() for file in sorted((KEPT / name).iterdir())]
        found = fuzz(TARGETS[name], seeds, given.seconds, rng)
        sys.stdout.write(f"| {name} | {found.inputs} | {found.steps} | {len(found.findings)} |\n")
        sys.stdout.flush()
        for what, data in found.findings.items():
            file = given.out / name / f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            sys.stderr.write(f"{file}: {what}\n")
        total += len(found.findings)
        for data in farthest(TARGETS[name], found.corpus, given.keep) if given.keep else ():
            if data not in seeds:
                (KEPT / name / f"far-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
    return total


_JSON = {"Content-Type": "application/json"}
_NO_LABEL_STUDIO = b"HTTP/1.1 503"  # what /runs says without one
_ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x" * 3000,
    "\x00",
    "\ud800",
    [],
    {},
    [[[]]],
    {"": None},
    "$image",
    "../../etc",
)


def _bodies() -> list[tuple[str, Any]]:
    context = {"result": [{"id": "a", "type": "keypointlabels", "from_name": "label", "value": {"x": 1, "y": 2}}]}
    asked = {"tasks": [{"id": 1, "data": GOOD}], "project": "1.1", "label_config": POLYGONS, "params": {}}
    setup = {
        "project": "1.1",
        "schema": POLYGONS,
        "hostname": "http://x",
        "access_token": "t",
        "extra_params": '{"a": 1}',
    }
    annotation = {"id": 3, "result": [], "updated_at": "2026-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z"}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}, "task": {"id": 1}, "annotation": annotation}
    return [
        ("/setup", setup),
        ("/webhook", event),
        ("/runs", {"project": 7, "limit": 3}),
        ("/predict", asked),
        ("/predict", asked | {"params": {"context": context}}),
        *(("/predict", asked | {"label_config": config}) for config in CONFIGS.values()),
    ]


def distorted(value: Any, rng: random.Random) -> Any:
    """A copy in which something is odd, lacks, or is in another place."""
    if rng.random() < 0.12 or not isinstance(value, dict | list):
        return rng.choice(_ODD) if rng.random() < 0.6 else value
    if isinstance(value, list):
        return [distorted(one, rng) for one in value] * rng.choice((1, 1, 1, 2, 0))
    found = {
        key: distorted(one, rng) if rng.random() < 0.5 else one for key, one in value.items() if rng.random() > 0.05
    }
    if rng.random() < 0.1:
        found[rng.choice(("id", "data", "context", "x" * 300))] = rng.choice(_ODD)
    return found


def _raw(port: int, rng: random.Random) -> None:
    path, length = rng.choice(("/predict", "/setup", "/webhook", "/health", "/runs")), rng.randrange(40)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    honest = head.encode() + rng.randbytes(length)
    data = changed(honest, [honest], (b"\r\n", b": ", b"Transfer-Encoding: chunked", b"HTTP/9.9", b"%00"), rng)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as one:
        one.sendall(data)
        one.settimeout(0.02)
        answer = one.recv(64)
        if answer.startswith(b"HTTP/1.1 5") and not answer.startswith(_NO_LABEL_STUDIO):
            raise AssertionError(f"{data!r}: {answer!r}")


def requests(given: argparse.Namespace) -> int:
    """Send requests; how many findings there are."""
    rng, counts, findings = random.Random(given.seed), Counter[str](), 0  # noqa: S311 - reproducible, no secret
    bodies, began = _bodies(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, backend(Path(folder), deadline=2.0) as running:
        port = running.client.base_url.port or 0
        for number in range(given.count):
            if time.monotonic() - began > given.seconds > 0:
                break
            if rng.random() < 0.3:
                try:
                    _raw(port, rng)
                    counts["raw bytes"] += 1
                except AssertionError as error:
                    findings += 1
                    sys.stderr.write(f"{error}\n")
            else:
                path, honest = rng.choice(bodies)
                body = json.dumps(distorted(honest, rng))
                try:
                    status = running.client.post(path, content=body, headers=_JSON).status_code
                except httpx.HTTPError as error:
                    status = 599
                    sys.stderr.write(f"{path} {type(error).__name__}: {body[:2000]}\n")
                counts[str(status)] += 1
                if status >= 500 and not (status == 503 and path == "/runs"):
                    findings += 1
                    sys.stderr.write(f"{status} {path}: {body[:2000]}\n")
            if number % 500 == 0 and running.client.get("/health").status_code != 200:
                findings += 1
        asked = sum(counts.values())
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{asked} requests in {seconds:.0f} s, seed {given.seed}: {dict(sorted(counts.items()))}; {findings} findings\n"
    )
    return findings


def main() -> int:
    """Fuzz; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("parsers")
    one.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    one.add_argument("--seconds", type=float, default=60.0, help="per target")
    one.add_argument("--out", type=Path, default=Path("fuzz"))
    one.add_argument(
        "--keep", type=int, default=0, help="most inputs per target to keep with the tests, as they reach far"
    )
    one.set_defaults(run=parsers)
    other = kinds.add_parser("requests")
    other.add_argument("--count", type=int, default=100_000)
    other.add_argument("--seconds", type=float, default=0.0, help="stop after so many; 0 for no limit")
    other.set_defaults(run=requests)
    for kind in (one, other):
        kind.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    return int(given.run(given) > 0)


if __name__ == "__main__":
    sys.exit(main())
