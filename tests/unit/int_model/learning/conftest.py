from __future__ import annotations

import numpy as np
import pytest
import torch

from int_model.learning.examples import Example, Target
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.suite import ModelSuite, load_suite


@pytest.fixture(scope="session")
def nano() -> ModelSuite:
    torch.set_num_threads(1)
    return load_suite("nano", device="cpu", offline=True)


@pytest.fixture(scope="session")
def segmenter(nano: ModelSuite) -> HFSamSegmenter:
    assert isinstance(nano.segmenter, HFSamSegmenter)
    return nano.segmenter


def disc(size: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


def drawn(seed: int, *, label: str = "disc", count: int = 1, group: str = "") -> Example:
    """A noisy picture of bright discs, which the kit's segmenter finds easy."""
    rng = np.random.default_rng(seed)
    size = (96, 128)
    picture = np.full((*size, 3), 70.0) + rng.normal(0, 6, (*size, 3))
    targets = []
    for index in range(count):
        mask = disc(size, 30 + 60 * index + rng.uniform(-6, 6), 48 + rng.uniform(-14, 14), rng.uniform(14, 22))
        picture[mask] = np.array([205, 150, 60]) + rng.normal(0, 6, (int(mask.sum()), 3))
        targets.append(Target(label, mask))
    return Example(np.clip(picture, 0, 255).astype(np.uint8), tuple(targets), group, f"picture {seed}")
