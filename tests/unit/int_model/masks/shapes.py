"""Masks for properties: noise, and smooth shapes like a segmenter's."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

noise = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Smooth shapes with holes and several parts, like a segmenter's masks."""
    seed, level, sigma = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.35, 0.65)), draw(st.floats(1.5, 5.0))
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    field = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width), dtype=np.float32), (0, 0), sigma)
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-9) > level


def ring_mask() -> np.ndarray:
    """A disc with a hole, ``[120, 160]``."""
    yy, xx = np.mgrid[:120, :160]
    distance = (yy - 60) ** 2 + (xx - 80) ** 2
    return (distance < 50**2) & (distance > 25**2)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def holes_of(mask: np.ndarray) -> list[np.ndarray]:
    """The holes of a mask: 4-connected background that does not reach the edge."""
    count, labels = cv2.connectedComponents((~np.pad(mask, 1)).astype(np.uint8), connectivity=4)
    inner = labels[1:-1, 1:-1]
    return [inner == i for i in range(1, count) if i != labels[0, 0]]
