"""Values of any range to the 8 bits that models and browsers see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_model.io.errors import ImageError


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown: from black at ``centre - width / 2`` to white at ``centre + width / 2``.

    In the units of the file: Hounsfield units for CT. ``width`` is at least 1.
    """

    centre: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.width) and self.width >= 1):
            raise ValueError(f"a window has a finite centre and a width of at least 1, not {self.centre},{self.width}")

    @property
    def ends(self) -> tuple[float, float]:
        """The values that are shown black and white."""
        return self.centre - self.width / 2, self.centre + self.width / 2

    @classmethod
    def parse(cls, text: str) -> Window | None:
        """``"40,400"`` as a window, ``"auto"`` as None. Raises ``ValueError`` for anything else."""
        if text.strip().lower() == "auto":
            return None
        try:
            centre, width = (float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"'{text}' is no window; write CENTRE,WIDTH as in 40,400, or auto") from None
        return cls(centre, width)


def spread(values: NDArray[Any], ignore: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """The range to show where nothing says which: from the 0.5th to the 99.5th percentile of the finite values.

    A picture with fewer distinct values than that can tell apart is shown from minimum to maximum.
    """
    valid = np.isfinite(values) if ignore is None else np.isfinite(values) & ~ignore
    seen = values[valid].astype(np.float64)
    if seen.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(seen, [0.5, 99.5]))
    return (low, high) if high > low else (float(seen.min()), float(seen.max()))


def to_8_bits(values: NDArray[Any], low: float, high: float, *, invert: bool = False) -> NDArray[np.uint8]:
    """Values from ``low`` to ``high`` as 0 to 255, clipped; ``invert`` makes the highest black."""
    if high <= low:
        out = np.where(values > high, 255, 0).astype(np.uint8)
    else:
        shares = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
        out = np.rint(shares.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    return np.asarray(255 - out if invert else out, dtype=np.uint8)


def grey_image(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``uint8 [H, W]`` as ``uint8 [H, W, 3]``. Raises ``ImageError`` for an empty or oddly shaped one."""
    if grey.ndim != 2 or grey.size == 0:
        raise ImageError(f"a grey image has two dimensions, not the shape {grey.shape}")
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
