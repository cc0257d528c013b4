"""``int-backend worker --devices``: one worker process per device, started again where one dies, stopped together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from ml_backend.cli.serve import set_up_logging
from ml_backend.settings import Settings

Tell = Callable[[str], None]
Work = Callable[[Settings, Tell], None]
WAITS = (1.0, 5.0, 15.0, 60.0)
"""Seconds before a worker that died is started again; after as many deaths in a row its device is left alone."""
_STEADY = 600.0  # one that lived that long did not die of what killed it before
_STOP_SECONDS = 45.0  # a worker takes 30 to push what is finished and to give back the rest
_LOOK = 0.25
_log = logging.getLogger(__name__)


@dataclass
class _Place:
    """A device, the process that works on it, and when the next one is due if there is none."""

    device: str
    process: SpawnProcess | None = None
    began: float = 0.0
    due: float = 0.0
    deaths: int = 0
    ended: bool = False


class Fleet:
    """Keeps a worker on each device.

    Args:
        settings: of all workers; each gets its device.
        devices: names as ``INT_DEVICE`` takes them.
        tell: gets the lines for people.
        work: what a worker process does until it gets SIGTERM; importable, as each process imports it anew.
        waits: seconds before each further try on a device, as `WAITS`.
    """

    def __init__(
        self, settings: Settings, devices: Sequence[str], tell: Tell, work: Work, waits: Sequence[float] = WAITS
    ) -> None:
        self._settings, self._tell, self._work, self._waits = settings, tell, work, waits
        self._places = [_Place(device) for device in devices]
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let `run` stop the workers and return. May be called in a signal handler or in another thread."""
        self._stopping.set()

    def run(self) -> int:
        """Work until `stop`, or until no device is left; the exit status: 1 if a device was left alone."""
        try:
            while not self._stopping.is_set() and not all(place.ended for place in self._places):
                self._start_what_is_due()
                sentinels = [place.process.sentinel for place in self._places if place.process is not None]
                if sentinels:
                    wait(sentinels, timeout=_LOOK)
                else:
                    self._stopping.wait(_LOOK)
                for place in self._places:
                    self._look_after(place)
        finally:
            self._end_all()
        return int(any(place.deaths > len(self._waits) for place in self._places))

    def _start_what_is_due(self) -> None:
        for place in self._places:
            if place.process is None and not place.ended and time.monotonic() >= place.due:
                settings = self._settings.model_copy(update={"device": place.device})
                # a fresh interpreter: forks of a process that has threads, or has touched CUDA, hang
                place.process = multiprocessing.get_context("spawn").Process(
                    target=_serve_one, args=(settings, self._work), name=f"worker {place.device}"
                )
                place.process.start()
                place.began = time.monotonic()

    def _look_after(self, place: _Place) -> None:
        if place.process is None or place.process.is_alive():
            return
        status, lived = place.process.exitcode or 0, time.monotonic() - place.began
        place.process.close()
        place.process = None
        if status == 0:  # somebody told this one to stop
            place.ended = True
            return
        place.deaths = 1 if lived >= _STEADY else place.deaths + 1
        why = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        if place.deaths > len(self._waits):
            place.ended = True
            self._tell(f"{place.device}: the worker ended {place.deaths} times ({why}); this device is left alone")
            return
        pause = self._waits[place.deaths - 1]
        place.due = time.monotonic() + pause
        self._tell(f"{place.device}: the worker ended ({why}); the next one starts in {pause:g} s")

    def _end_all(self) -> None:
        processes = [place.process for place in self._places if place.process is not None]
        for process in processes:
            process.terminate()
        limit = time.monotonic() + _STOP_SECONDS
        for process in processes:
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                _log.warning("%s did not stop in %.0f s and is killed", process.name, _STOP_SECONDS)
                process.kill()
                process.join()


def run(settings: Settings, devices: Sequence[str], tell: Tell, work: Work) -> int:
    """A `Fleet` until SIGTERM or Ctrl-C; the exit status."""
    set_up_logging(settings.log_level)
    fleet = Fleet(settings, devices, tell, work)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: fleet.stop())
    tell(f"one worker on each of {', '.join(devices)}")
    return fleet.run()


def _serve_one(settings: Settings, work: Work) -> None:
    """The worker process of one device: its lines begin with the device, and it ends when the fleet is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the fleet then sends SIGTERM
    fleet = multiprocessing.parent_process()
    if fleet is not None:
        threading.Thread(target=_end_with, args=(fleet.join,), daemon=True).start()
    set_up_logging(settings.log_level, before=f"{settings.device}: ")
    try:
        work(settings, lambda line: print(f"{settings.device}: {line}", flush=True))  # noqa: T201 - as the command does
    except Exception as error:  # noqa: BLE001 - whatever it is, the fleet decides what comes next
        _log.error("%s", error, exc_info=_log.isEnabledFor(logging.DEBUG))
        sys.exit(1)


def _end_with(gone: Callable[[], object]) -> None:
    gone()
    os.kill(os.getpid(), signal.SIGTERM)
