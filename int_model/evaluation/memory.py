"""The highest memory that a piece of work reached, of this process and of its accelerator."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MB = 1e6


@dataclass(slots=True)
class PeakMemory:
    """Filled when the block ends; MB are 1e6 bytes, None where the system does not tell."""

    rss_mb: float | None = None
    cuda_mb: float | None = None


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the highest resident memory, and the highest memory allocated by torch on CUDA, within the block.

    On Linux the kernel's high-water mark is reset first; elsewhere the mark since the process began is given.
    Accelerators count only where torch has been imported already.
    """
    peak = PeakMemory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    try:
        yield peak
    finally:
        peak.rss_mb = _resident()
        if cuda is not None:
            peak.cuda_mb = cuda.max_memory_allocated() / _MB


def _resident() -> float | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _MB
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / _MB


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda
