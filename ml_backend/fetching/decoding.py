"""Fetched bytes to pixels, within the service's limits: pixels of one image, of all at once, and time.

A file may take its decoder minutes, in code that nothing can interrupt. So all but small images are decoded in
processes of their own, which are ended when they take too long; and an image waits while the decoded ones that are
still in use have too many pixels.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from int_model.core.types import Image
from int_model.io.errors import ImageError, TooLargeError
from int_model.io.images import decode_image, image_size
from ml_backend.fetching.decode_worker import HEAD, READY

_SMALL_PIXELS = 2_000_000
_SMALL_BYTES = 4_000_000
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Caps.

    Attributes:
        max_pixels: of one image.
        pixels_at_once: of all decoded images that are in use; one image may always be.
        seconds: for one image.
        processes: how many decode large images at a time.
    """

    max_pixels: int = 100_000_000
    pixels_at_once: int = 400_000_000
    seconds: float = 20.0
    processes: int = 2


def decode_fetched(data: bytes, max_pixels: int) -> Image:
    """As `decode_image`. Raises ``ImageError``; for too many pixels it names the setting that allows more."""
    try:
        return decode_image(data, max_pixels=max_pixels)
    except TooLargeError as error:
        raise ImageError(f"{error}, or raise INT_MAX_IMAGE_PIXELS") from None


class Decoder:
    """Decodes; for one event loop."""

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self._limits = limits or DecodeLimits()
        self._small = ThreadPoolExecutor(2, thread_name_prefix="decode-small")
        self._large = ThreadPoolExecutor(self._limits.processes, thread_name_prefix="decode")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._in_use = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def decode(self, data: bytes, *, urgent: bool = False) -> Image:
        """A file as ``uint8 [H, W, 3]``, upright; an urgent one waits for no other that waits.

        Raises:
            ImageError: it is no image that can be used, or takes too long.
        """
        loop, limits = asyncio.get_running_loop(), self._limits
        height, width = await loop.run_in_executor(self._small, self._size, data)
        pixels = height * width
        await self._claim(pixels, urgent=urgent)
        try:
            if pixels <= _SMALL_PIXELS and len(data) <= _SMALL_BYTES:
                image = await loop.run_in_executor(self._small, decode_fetched, data, limits.max_pixels)
            else:
                image = await loop.run_in_executor(self._large, self._in_process, data)
        except BaseException:
            self._free(pixels)
            raise
        weakref.finalize(image, self._unused, loop, pixels)
        return image

    async def close(self) -> None:
        """End the processes, and what they are at."""
        for pool in (self._small, self._large):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def _size(self, data: bytes) -> tuple[int, int]:
        try:
            return image_size(data, max_pixels=self._limits.max_pixels)
        except TooLargeError as error:
            raise ImageError(f"{error}, or raise INT_MAX_IMAGE_PIXELS") from None

    def _in_process(self, data: bytes) -> Image:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _Process()
        try:
            image = process.decode(data, self._limits)
        except ImageError:
            self._keep(process)
            raise
        except BaseException:
            process.end()
            raise
        self._keep(process)
        return image

    def _keep(self, process: _Process) -> None:
        if process.lives:
            self._idle.put(process)
        else:
            process.end()

    # --- pixels in use, in the event loop

    async def _claim(self, pixels: int, *, urgent: bool) -> None:
        if (urgent or not self._waiting) and self._fits(pixels):
            self._in_use += pixels
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if urgent else self._waiting.append)((pixels, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(pixels)
            raise

    def _fits(self, pixels: int) -> bool:
        return self._in_use == 0 or self._in_use + pixels <= self._limits.pixels_at_once

    def _free(self, pixels: int) -> None:
        self._in_use -= pixels
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._in_use += wanted
                turn.set_result(None)

    def _unused(self, loop: asyncio.AbstractEventLoop, pixels: int) -> None:
        """An image is gone, in whichever thread."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free, pixels)


class _Process:
    """A worker process, used by one thread at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "ml_backend.fetching.decode_worker"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env
        )
        self._ready = False

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def decode(self, data: bytes, limits: DecodeLimits) -> Image:
        """What the process makes of a file. Raises ``ImageError``, also where it dies or takes too long."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limits.seconds if self._ready else _START_SECONDS, stop)
        timer.start()
        try:
            if not self._ready:
                self._wait()
                timer.cancel()
                timer = threading.Timer(limits.seconds, stop)
                timer.start()
            return self._ask(data, limits.max_pixels)
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            self._process.kill()
            self._process.wait()
            if late.is_set():
                reason = f"the image takes more than {limits.seconds:g} s to decode; save it again, smaller or as PNG"
                raise ImageError(f"{reason}, or raise INT_DECODE_TIMEOUT") from None
            raise ImageError("the image cannot be decoded: it took its decoder down; save it again as PNG") from None
        finally:
            timer.cancel()

    def _wait(self) -> None:
        """Until it has imported what it needs, which takes a second on a busy machine."""
        if self._process.stdout is None or self._process.stdout.readline() != READY:
            raise EOFError
        self._ready = True

    def _ask(self, data: bytes, max_pixels: int) -> Image:
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise EOFError
        to.write(HEAD.pack(len(data), max_pixels))
        to.write(data)
        to.flush()
        answer = json.loads(back.readline() or b"null")
        if answer is None:
            raise EOFError
        if "error" in answer:
            setting = ", or raise INT_MAX_IMAGE_PIXELS" if answer["large"] else ""
            raise ImageError(answer["error"] + setting)
        height, width = answer["size"]
        pixels = np.empty((height, width, 3), np.uint8)  # not filled first: that would hold the interpreter
        view, at = pixels.data.cast("B"), 0
        while at < len(view):
            count = back.readinto(view[at:])  # type: ignore[attr-defined] # of a buffered reader
            if not count:
                raise EOFError
            at += count
        return pixels

    def end(self) -> None:
        """End the process and close its pipes."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue
        self._process.wait()
