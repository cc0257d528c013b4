"""Random images and weights."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from int_model.core.types import Box, Image
from int_model.models.protocols import MaskPrompt

M = TypeVar("M", bound=torch.nn.Module)

PROMPTS = (
    MaskPrompt(box=Box(10, 8, 60, 40)),
    MaskPrompt(points=np.array([[20.0, 20.0], [70.0, 30.0]]), labels=np.array([1, 0])),
    MaskPrompt(box=Box(1, 1, 80, 30), points=np.array([[30.0, 20.0]]), labels=np.array([1])),
)
"""For images of 48 x 90."""


def picture(height: int, width: int, seed: int) -> Image:
    """Random blocks of 8 x 8 pixels: structure that survives resizing to a few pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))[:height, :width])


def enlivened(model: M, seed: int, scale: float) -> M:
    """The model with all its parameters random, so that outputs depend visibly on inputs; ready to run."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.copy_(scale * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()


def largest(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest absolute difference between two arrays of a pair."""
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs)
