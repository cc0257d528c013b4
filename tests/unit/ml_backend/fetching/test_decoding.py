"""Who decodes an image, and when its turn comes; the processes themselves are tested with hostile files."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from int_model.io.errors import ImageError, TooLargeError
from ml_backend.fetching import decoding
from ml_backend.fetching.decode_worker import HEAD
from ml_backend.fetching.decoding import DecodeLimits, Decoder, _Process, decode_fetched
from tests.support.harness import encoded, picture


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files say their size, as in ``5x10``; who decodes them is noted."""
    noted: list[str] = []

    def size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
        height, width = map(int, data.strip().split(b"x"))
        if height * width > max_pixels:
            raise TooLargeError(f"it has {height * width} pixels")
        return height, width

    def made(who: str, data: bytes) -> Any:
        noted.append(who)
        if data.endswith(b" "):
            raise ImageError("damaged")
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(decoding, "image_size", size)
    monkeypatch.setattr(decoding, "decode_fetched", lambda data, _: made("thread", data))
    monkeypatch.setattr(Decoder, "_in_process", lambda _, data: made("process", data))
    return noted


def played(play: Callable[[Decoder], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        decoder = Decoder(DecodeLimits(**limits))
        try:
            async with asyncio.timeout(20):
                await play(decoder)
        finally:
            await decoder.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "who"),
    [
        (b"1000x2000", "thread"),
        (b"1x2000001", "process"),
        (b"1x1".rjust(4_000_000), "thread"),
        (b"1x1".rjust(4_000_001), "process"),
    ],
)
def test_only_small_images_are_decoded_in_our_own_process(by: list[str], data: bytes, who: str) -> None:
    async def play(decoder: Decoder) -> None:
        await decoder.decode(data)

    played(play)
    assert by == [who]


def test_too_many_pixels_name_the_setting(by: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(decoder: Decoder) -> None:
        await decoder.decode(b"10x10")
        with pytest.raises(ImageError, match="it has 110 pixels, or raise INT_MAX_IMAGE_PIXELS"):
            await decoder.decode(b"11x10")

    played(play, max_pixels=100)
    assert len(by) == 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.01)


async def freed(images: list[Any], decoder: Decoder, left: int) -> None:
    images.clear()
    while decoder._in_use != left:
        gc.collect()
        await asyncio.sleep(0.001)


def test_pixels_in_use_are_bounded_and_the_urgent_go_first(by: list[str]) -> None:
    async def play(decoder: Decoder) -> None:
        held = [await decoder.decode(b"5x10"), await decoder.decode(b"5x10")]  # exactly the most
        assert decoder._in_use == 100
        turns: list[str] = []

        async def use(name: str, data: bytes, *, urgent: bool = False) -> None:
            await decoder.decode(data, urgent=urgent)
            turns.append(name)

        tasks = [asyncio.create_task(use("first", b"10x10")), asyncio.create_task(use("second", b"10x10"))]
        await settle()
        tasks.append(asyncio.create_task(use("urgent", b"10x10", urgent=True)))
        await settle()
        assert (turns, len(by)) == ([], 2)
        held.pop()
        await settle()
        assert turns == [], "half is free, and all is needed"
        held.clear()
        await asyncio.gather(*tasks)
        assert turns == ["urgent", "first", "second"]
        await freed(held, decoder, 0)

    played(play, pixels_at_once=100)


def test_a_small_one_does_not_pass_those_that_wait_unless_it_is_urgent(by: list[str]) -> None:
    async def play(decoder: Decoder) -> None:
        held = [await decoder.decode(b"6x10")]
        large = asyncio.create_task(decoder.decode(b"9x10"))
        await settle()
        small = asyncio.create_task(decoder.decode(b"1x10"))
        await settle()
        assert not large.done()
        assert not small.done()
        assert (await decoder.decode(b"2x10", urgent=True)).shape == (1, 1, 3)
        held.clear()
        await asyncio.gather(large, small)

    played(play, pixels_at_once=100)


def test_one_image_may_always_be_in_use(by: list[str]) -> None:
    async def play(decoder: Decoder) -> None:
        held = [await decoder.decode(b"50x10")]
        assert decoder._in_use == 500
        await freed(held, decoder, 0)

    played(play, pixels_at_once=100)


def test_failures_and_who_leaves_give_their_pixels_back(by: list[str]) -> None:
    async def play(decoder: Decoder) -> None:
        with pytest.raises(ImageError, match="damaged"):
            await decoder.decode(b"10x10 ")
        assert decoder._in_use == 0
        held = [await decoder.decode(b"10x10")]
        leaving = asyncio.create_task(decoder.decode(b"10x10"))
        staying = asyncio.create_task(decoder.decode(b"10x10"))
        await settle()
        leaving.cancel()
        await settle()
        held.clear()
        held.append(await staying)
        del staying  # which holds its result
        assert decoder._in_use == 100
        await freed(held, decoder, 0)

    played(play, pixels_at_once=100)


def test_who_leaves_in_the_moment_of_its_turn_gives_it_back(by: list[str]) -> None:
    async def play(decoder: Decoder) -> None:
        await decoder._claim(100, urgent=False)
        leaving = asyncio.create_task(decoder.decode(b"10x10"))
        await settle()
        decoder._free(100)
        assert decoder._in_use == 100  # it is its turn, and it does not know yet
        leaving.cancel()
        await settle()
        assert (decoder._in_use, by) == (0, [])

    played(play, pixels_at_once=100)


def test_real_files_are_decoded_and_refused_as_anywhere() -> None:
    assert np.array_equal(decode_fetched(encoded(picture()), 4800), picture())
    with pytest.raises(ImageError, match="or raise INT_MAX_IMAGE_PIXELS"):
        decode_fetched(encoded(picture()), 4799)
    with pytest.raises(ImageError):
        decode_fetched(b"no image", 4800)


class Child:
    """Stands in for a worker process: what it was sent, and its answer."""

    def __init__(self, answer: bytes) -> None:
        self.stdin, self.stdout = io.BytesIO(), io.BytesIO(answer)
        self.sent, self.waited = b"", False

    def kill(self) -> None:
        self.sent = self.stdin.getvalue()

    def wait(self) -> None:
        self.waited = True


def asked(answer: bytes) -> tuple[Any, Child]:
    """What becomes of a worker's answer to the file ``abc``."""
    process, child = _Process.__new__(_Process), Child(answer)
    process._process, process._ready = child, True  # type: ignore[assignment]
    try:
        return process.decode(b"abc", DecodeLimits(max_pixels=99)), child
    finally:
        process.end()


def test_a_worker_answers_with_a_line_and_the_pixels() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image, child = asked(b'{"size": [2, 4]}\n' + pixels.tobytes())
    np.testing.assert_array_equal(image, pixels)
    assert child.sent == HEAD.pack(3, 99) + b"abc"
    assert child.stdin.closed
    assert child.stdout.closed
    assert child.waited


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b'{"error": "damaged", "large": false}\n', "^damaged$"),
        (b'{"error": "it has 100 pixels", "large": true}\n', "it has 100 pixels, or raise INT_MAX_IMAGE_PIXELS"),
        (b'{"size": [2, 4]}\n' + bytes(23), "took its decoder down"),
        (b"", "took its decoder down"),
        (b"{\n", "took its decoder down"),
    ],
)
def test_what_a_worker_says_of_a_file_that_it_cannot_decode(answer: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        asked(answer)


def test_processes_are_used_again_and_end_with_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Fake:
        def __init__(self) -> None:
            self.lives, self.ended, self.done = True, False, 0
            made.append(self)

        def decode(self, data: bytes, limits: DecodeLimits) -> Any:
            self.done += 1
            if data.startswith(b"bad"):
                self.lives = data != b"bad and fatal"
                raise ImageError("damaged")
            return np.zeros((1, 1, 3), np.uint8)

        def end(self) -> None:
            self.ended = True

    monkeypatch.setattr(decoding, "_Process", Fake)
    monkeypatch.setattr(decoding, "image_size", lambda data, *, max_pixels: (2000, 2000))

    async def play(decoder: Decoder) -> None:
        await decoder.decode(b"good")
        for data in (b"bad", b"bad and fatal"):
            with pytest.raises(ImageError):
                await decoder.decode(data)
        await decoder.decode(b"good")
        assert [one.done for one in made] == [3, 1]
        assert [one.ended for one in made] == [True, False]

    played(play, processes=1)
    assert [one.ended for one in made] == [True, True]
