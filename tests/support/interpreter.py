"""How long a call keeps the interpreter to itself, in which time no other thread, not even an event loop, can run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WORTH_TELLING = 0.002
_LONG_WAIT = 0.02


def longest_hold(call: Callable[[], Any], attempts: int = 3) -> tuple[float, float]:
    """The longest time without another thread's turn, and all that the call took: CPU seconds of the calling thread.

    The other thread looks at the first one's clock whenever it has a turn. That clock stands still while the machine
    runs other programs. Where the machine holds up the other thread only, the figure is too high: of several attempts
    the lowest counts.
    """
    found = []
    for _ in range(attempts):
        clock = time.pthread_getcpuclockid(threading.get_ident())
        ready, end = threading.Event(), threading.Event()
        gaps = [0.0]

        def look(clock: int = clock, ready: Any = ready, end: Any = end, gaps: list[float] = gaps) -> None:
            last = time.clock_gettime(clock)
            ready.set()
            while not end.is_set():
                now = time.clock_gettime(clock)
                gaps.append(now - last)
                last = now
                time.sleep(0.0)

        other = threading.Thread(target=look)
        other.start()
        try:
            ready.wait()
            begun = time.thread_time()
            call()
            took = time.thread_time() - begun
        finally:
            end.set()
            other.join()
        found.append((max(gaps), took))
    return min(found)


def tell_steps(file: Path) -> None:
    """Write the CPU seconds of every longer step of this process's event loops into a file, one a line.

    While a step goes on, the loop answers nobody. What other programs take of the processor is not counted.
    """
    run = asyncio.events.Handle._run  # type: ignore[attr-defined]
    lines = file.open("a", buffering=1)

    def timed(self: Any) -> None:
        begun = time.thread_time()
        run(self)
        if (took := time.thread_time() - begun) > _WORTH_TELLING:
            lines.write(f"{took}\n")

    asyncio.events.Handle._run = timed  # type: ignore[attr-defined]


def tell_waits(file: Path) -> None:
    """Write into a file, one a line, the CPU seconds that this process used while a thread waited for its turn.

    The thread wants a turn every few milliseconds, as an event loop does. What keeps it from it is whoever holds the
    interpreter; while the machine runs other programs, this process uses no CPU. Work without the interpreter counts,
    too, so on a busy machine a figure may be too high.
    """
    lines = file.open("a", buffering=1)

    def watch() -> None:
        last = time.process_time()
        while True:
            time.sleep(0.005)
            now = time.process_time()
            if now - last > _LONG_WAIT:
                lines.write(f"{now - last}\n")
            last = now

    threading.Thread(target=watch, name="waits", daemon=True).start()
