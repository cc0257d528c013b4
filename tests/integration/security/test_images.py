"""Image files that cost more than they weigh: scans, pixels, time, memory; and the processes that decode them."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.io.errors import ImageError
from int_model.io.images import decode_image
from int_model.io.jpeg import MAX_SCANS, has_too_many_scans
from int_model.masks.components import remove_small_components
from int_model.masks.polygons import mask_to_parts
from int_model.masks.post_processing import share_pixels
from int_model.masks.rings import outlines
from int_model.runner.results import StoredObject, StoredResult
from ml_backend.fetching.decoding import DecodeLimits, Decoder
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.rle import encode_mask
from tests.support.harness import GOOD, POLYGONS, data_url, encoded, picture
from tests.support.interpreter import longest_hold
from tests.support.served import Served, memory_of, pulse, served


@cache
def progressive(height: int, width: int) -> bytes:
    out = io.BytesIO()
    PilImage.new("RGB", (width, height), (200, 10, 10)).save(out, "JPEG", progressive=True)
    return out.getvalue()


@cache
def scans(count: int, height: int = 3000, width: int = 4000) -> bytes:
    """A picture whose last scan comes that often more."""
    plain = progressive(height, width)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * count + b"\xff\xd9"


def test_a_thousand_scans_are_counted_not_decoded() -> None:
    file = scans(1000)
    assert len(file) < 600_000
    begun = time.thread_time()
    decode_image(progressive(3000, 4000))
    honest = time.thread_time() - begun
    begun = time.thread_time()
    with pytest.raises(ImageError, match="more than 64 scans; save it again"):
        decode_image(file)
    assert time.thread_time() - begun < max(honest, 0.05)


def test_scans_of_honest_files_are_no_matter() -> None:
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (400, 600, 3), dtype=np.uint8)
    for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 1}, {"quality": 100}):
        file = encoded(noise, "JPEG", **options)
        assert not has_too_many_scans(file)
        assert not has_too_many_scans(file + rng.bytes(3_000_000))  # motion photos carry a film behind their end
        assert not has_too_many_scans(file[: len(file) // 2])
    assert has_too_many_scans(scans(MAX_SCANS))
    assert not has_too_many_scans(b"\xff\xd8" + b"\xff\xe1\x00\x08" + b"\xff\xda" * 3 + b"\xff\xd9")


def slow_file() -> bytes:
    """As many scans as are allowed, on 64 megapixels: many seconds."""
    return scans(40, 8000, 8000)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings: dict[str, Any] = {"decode_timeout": 1.0, "decoders": 2, "deadline": 60.0}
    with served(tmp_path_factory.mktemp("data"), **settings) as made:
        predict(made, GOOD)
        yield made


def predict(running: Served, *data: Any, project: str = "1") -> list[Any]:
    tasks = [{"id": number, "data": entry} for number, entry in enumerate(data)]
    body = {"tasks": tasks, "project": project, "label_config": POLYGONS}
    found: list[Any] = running.client.post("/predict", json=body).json()["results"]
    return found


@pytest.mark.parametrize("count", [1, 4])
def test_slow_files_are_ended_and_do_not_hold_up_others(running: Served, count: int) -> None:
    files = [{"image": data_url(slow_file() + bytes([number, count]))} for number in range(count)]
    slow: list[list[Any]] = []
    attack = threading.Thread(target=lambda: slow.append(predict(running, *files)))
    with pulse(running) as beat:
        attack.start()
        time.sleep(0.3)
        begun = time.perf_counter()
        while attack.is_alive():
            assert predict(running, GOOD, project="2")[0]["result"]  # known by its content
        attack.join()
        took = time.perf_counter() - begun
    assert slow == [[[]] * count]
    assert "takes more than 1 s to decode" in str(running.client.get("/status").json()["problems"])
    assert took < 30
    assert beat.longest < 1.0
    large = {"image": data_url(encoded(picture(2000, 2000), "JPEG"))}
    assert predict(running, large)[0]["result"]  # a new process has taken the place of those that were ended


def test_decoded_images_are_bounded_in_memory() -> None:
    """Sixteen large images at once, of which three fit: each is used for a while, and forgotten."""
    file = encoded(np.zeros((3000, 3000), np.uint8))
    alive, most = 0, 0

    async def use(decoder: Decoder, urgent: bool) -> None:
        nonlocal alive, most
        image = await decoder.decode(file, urgent=urgent)
        assert image.shape == (3000, 3000, 3)
        alive += 1
        most = max(most, alive)
        await asyncio.sleep(0.02)
        alive -= 1

    async def run() -> None:
        decoder = Decoder(DecodeLimits(pixels_at_once=30_000_000))
        try:
            await asyncio.gather(*(use(decoder, number % 5 == 0) for number in range(16)))
            gc.collect()
            await asyncio.sleep(0.05)
            assert decoder._in_use == 0
        finally:
            await decoder.close()

    asyncio.run(run())
    assert 1 <= most <= 3


@pytest.mark.slow
def test_sixteen_pngs_of_100_megapixels_at_once(tmp_path: Path) -> None:
    files = []
    for number in range(16):
        image = PilImage.new("1", (10_000, 10_000))
        image.putpixel((number, 0), 1)
        out = io.BytesIO()
        image.save(out, "PNG")
        files.append({"image": data_url(out.getvalue())})
    with served(tmp_path, max_decoded_pixels=200_000_000, deadline=300.0) as made:
        predict(made, GOOD)
        made.forget_peak()
        before = made.resident
        with pulse(made) as beat:
            answers = predict(made, *files)
        assert all(answer["result"] == [] for answer in answers)
        assert made.peak - before < 4000  # sixteen images alone would be 4,800
        assert beat.longest < 1.0


def test_decoders_end_with_their_service(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        large = {"image": data_url(encoded(picture(2000, 2000), "JPEG"))}
        assert predict(made, large)[0]["result"]
        pids = [pid for pid in made.pids() if pid != made.process.pid]
        assert pids
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and b"decode_worker" in _command(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_decoder_that_dies_is_an_error_and_is_replaced() -> None:
    async def run() -> None:
        decoder = Decoder(DecodeLimits(processes=1))
        good = encoded(picture(1800, 1800), "JPEG")
        try:
            assert (await decoder.decode(good)).shape == (1800, 1800, 3)
            process = decoder._idle.get()
            os.kill(process._process.pid, 9)
            process._process.wait()
            decoder._idle.put(process)
            with pytest.raises(ImageError, match="took its decoder down"):
                await decoder.decode(good)
            assert (await decoder.decode(good)).shape == (1800, 1800, 3)
            with pytest.raises(ImageError, match="truncated or damaged"):
                await decoder.decode(encoded(np.zeros((1800, 1800, 3), np.uint8), "BMP")[:-9000])
        finally:
            await decoder.close()

    asyncio.run(run())


def test_a_nifti_bomb_is_stopped_early() -> None:
    pytest.importorskip("nibabel")
    from int_model.io.medical.nifti import read_volume

    bomb = gzip.compress(b"\x5c\x01\x00\x00" + bytes(600_000_000), 9)
    assert len(bomb) < 700_000
    before = memory_of(os.getpid(), "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with pytest.raises(ImageError, match="more than 200 times its size"):
        read_volume(bomb)
    assert memory_of(os.getpid(), "VmHWM") - before < 400


def test_no_step_of_a_large_image_keeps_the_interpreter_to_itself() -> None:
    """Else `/health` waits as long: 0.9 s for 64 megapixels, when outlines were made with `repeat`."""
    mask = np.zeros((3000, 3000), np.bool_)
    mask[5:-5, 5:-5] = True
    found = StoredResult((3000, 3000), (StoredObject.of(mask, "p", 0.9),), 0.9)
    steps: dict[str, Callable[[], Any]] = {
        "outlines": lambda: outlines(mask),
        "polygons": lambda: mask_to_parts(mask),
        "brush": lambda: encode_mask(mask),
        "bitmask": lambda: encode_bitmask(mask),
        "overlaps": lambda: share_pixels([mask, mask], [0.5, 0.9], ["a", "b"], [0, 1]),
        "kept": lambda: StoredResult.unpack(found.pack()).objects[0].mask,
        "small": lambda: remove_small_components(mask, 16),
    }
    begun = time.thread_time()
    mask.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    naive = time.thread_time() - begun
    held = {name: longest_hold(step, attempts=2)[0] for name, step in steps.items()}
    assert max(held.values()) < 0.5 * naive, (naive, held)  # of CPU time, and only what both attempts took


def test_decoding_takes_less_than_four_copies_of_the_pixels() -> None:
    """Of the finished pixels, in the process that decodes; and it gives them back."""

    async def run() -> None:
        decoder = Decoder(DecodeLimits(processes=1))
        try:
            await decoder.decode(encoded(picture(1800, 1800), "JPEG"))
            process = decoder._idle.get()
            decoder._idle.put(process)
            pid = process._process.pid
            before = memory_of(pid, "VmRSS")
            image = PilImage.new("RGBA", (4000, 4000), (1, 2, 3, 128))
            decoded = await decoder.decode(encoded(np.asarray(image)))
            assert decoded[0, 0].tolist() == [128, 128, 129]
            assert memory_of(pid, "VmHWM") - before < 4 * decoded.nbytes / 1e6
            assert memory_of(pid, "VmRSS") - before < decoded.nbytes / 1e6
        finally:
            await decoder.close()

    asyncio.run(run())
