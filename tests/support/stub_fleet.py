"""What workers of a fleet do in tests, and ``python -m tests.support.stub_fleet NAMES``: a fleet of stub workers."""

from __future__ import annotations

import os
import signal
import sys
import threading

from ml_backend.cli.workers import fleet
from ml_backend.cli.workers.fleet import Tell
from ml_backend.settings import Settings, load_settings


def take_tickets(settings: Settings, tell: Tell) -> None:
    """`int-backend worker` with models that only sleep."""
    from ml_backend.cli.workers import worker  # seconds; the others need it not
    from tests.support.stub_worker import IDENTITY, Sleeper

    worker.run(settings, tell, load=lambda: Sleeper(0.1), identity=IDENTITY)


def by_name(settings: Settings, tell: Tell) -> None:
    """Leave a mark for each start; then wait to be told to stop, or die, as the device's name says."""
    with (settings.data_dir / settings.device).open("a") as marks:
        marks.write(f"{os.getpid()}\n")
    if settings.device == "broken":
        raise RuntimeError("the models could not be loaded")
    if settings.device == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.device == "leaves":
        return
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    tell("waits")
    told.wait()


if __name__ == "__main__":
    sys.exit(fleet.run(load_settings({}), sys.argv[1].split(","), print, take_tickets))
