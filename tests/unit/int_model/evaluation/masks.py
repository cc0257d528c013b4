"""Random and degenerate masks that many tests share."""

from __future__ import annotations

import cv2
import numpy as np

from int_model.core.types import Mask


def blob(rng: np.random.Generator, height: int = 48, width: int = 64) -> Mask:
    """An irregular region with holes and islands; sometimes touching the edge."""
    noise = cv2.GaussianBlur(rng.random((height, width), dtype=np.float32), (0, 0), rng.uniform(1.5, 6.0))
    return noise > np.quantile(noise, rng.uniform(0.5, 0.95))


def soft(rng: np.random.Generator, mask: Mask) -> np.ndarray:
    """A soft map around a mask, ``float32`` in [0, 1]."""
    spread = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.0)
    return np.clip(spread + rng.normal(0, 0.05, mask.shape), 0, 1).astype(np.float32)


def degenerate(height: int = 20, width: int = 30) -> dict[str, Mask]:
    empty = np.zeros((height, width), dtype=np.bool_)
    pixel, corner, line, frame = empty.copy(), empty.copy(), empty.copy(), empty.copy()
    pixel[7, 11] = corner[0, 0] = True
    last = empty.copy()
    last[-1, -1] = True
    line[5] = True
    frame[[0, -1]] = frame[:, [0, -1]] = True
    return {
        "empty": empty,
        "full": ~empty,
        "pixel": pixel,
        "corner": corner,
        "last": last,
        "line": line,
        "frame": frame,
    }


PAIRS = [(a, b) for a in degenerate() for b in degenerate()]
