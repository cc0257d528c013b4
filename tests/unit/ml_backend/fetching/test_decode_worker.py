"""What the decoding process answers, and how much memory it allows itself; here without a process of its own."""

from __future__ import annotations

import io
import json
import resource

import numpy as np
import pytest

from ml_backend.fetching import decode_worker
from ml_backend.fetching.decode_worker import HEAD, READY, serve
from tests.support.harness import encoded, picture

GIB = 1 << 30
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits that were set: this process keeps its own."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (UNLIMITED, UNLIMITED))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: found.append(both))
    return found


def answers(*files: bytes, max_pixels: int = 10_000) -> bytes:
    sink = io.BytesIO()
    serve(io.BytesIO(b"".join(HEAD.pack(len(data), max_pixels) + data for data in files)), sink)
    said = sink.getvalue()
    assert said.startswith(READY)
    return said.removeprefix(READY)


def test_one_file_after_the_other_is_answered_with_its_size_and_pixels(limits: list[tuple[int, int]]) -> None:
    first, second = picture(20, 30), picture(40, 10)
    rest = answers(encoded(first), b"no image", encoded(second))
    for image in (first, None, second):
        line, _, rest = rest.partition(b"\n")
        answer = json.loads(line)
        if image is None:
            assert not answer["large"]
            continue
        assert answer == {"size": list(image.shape[:2])}
        assert np.array_equal(np.frombuffer(rest[: image.size], np.uint8).reshape(image.shape), image)
        rest = rest[image.size :]
    assert rest == b""


def test_too_many_pixels_are_told_apart_from_other_faults(limits: list[tuple[int, int]]) -> None:
    answer = json.loads(answers(encoded(picture(20, 30)), max_pixels=599))
    assert answer["large"]
    assert "600" in answer["error"] or "30" in answer["error"]


def test_an_image_that_needs_too_much_memory_gets_an_answer_and_the_next_one_too(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, greedy = decode_worker.decode_image, encoded(picture(20, 30))

    def hungry(data: bytes, *, max_pixels: int) -> np.ndarray:
        if data == greedy:
            raise MemoryError
        return decode(data, max_pixels=max_pixels)

    monkeypatch.setattr(decode_worker, "decode_image", hungry)
    line, _, rest = answers(greedy, encoded(picture(5, 5))).partition(b"\n")
    answer = json.loads(line)
    assert "too much memory" in answer["error"]
    assert not answer["large"], "a higher INT_MAX_IMAGE_PIXELS would not help"
    assert rest.startswith(b'{"size": [5, 5]}\n')


@pytest.mark.parametrize(("pixels", "least", "most"), [(1_000_000, 3, 3.2), (100_000_000, 5, 6)])
def test_the_memory_of_a_decoder_is_bounded_by_the_pixels_that_are_allowed(
    limits: list[tuple[int, int]], pixels: int, least: float, most: float
) -> None:
    answers(encoded(picture(5, 5)), max_pixels=pixels)
    ((soft, hard),) = limits
    assert least * GIB <= soft <= most * GIB
    assert hard == UNLIMITED


def test_a_lower_limit_of_the_system_is_kept(limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, 2 * GIB))
    answers(encoded(picture(5, 5)))
    assert limits == [(2 * GIB, 2 * GIB)]
