"""Procedural backgrounds of the miniature world. Train and test use other seeds, other scales and other hues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.nano.world import ALL_ENVIRONMENTS

Split = Literal["train", "test"]
TILE = 400
_PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "sand": ((150, 116, 72), (204, 172, 120), (233, 212, 168)),
    "leaves": ((28, 58, 22), (66, 112, 44), (132, 164, 72)),
    "bark": ((52, 38, 28), (104, 78, 56), (150, 122, 94)),
    "grass": ((48, 84, 28), (98, 140, 50), (176, 190, 96)),
    "water": ((18, 58, 92), (42, 108, 146), (134, 188, 206)),
    "stone": ((70, 70, 74), (122, 120, 118), (178, 174, 168)),
    "snow": ((168, 182, 198), (214, 222, 230), (246, 248, 250)),
    "coral": ((112, 44, 56), (186, 86, 84), (232, 158, 130)),
    "mucosa": ((150, 62, 58), (204, 112, 96), (236, 166, 142)),
    "skin": ((176, 124, 98), (216, 168, 140), (238, 204, 180)),
}


def fractal(rng: np.random.Generator, grid: tuple[float, float], octaves: int = 4, gain: float = 0.55) -> NDArray:
    """Fractal noise ``float32 [TILE, TILE]`` in [0, 1]; ``grid``: the coarsest cells along y and x."""
    total = np.zeros((TILE, TILE), dtype=np.float32)
    for octave in range(octaves):
        rows, cols = (max(2, int(c * 2**octave) + 1) for c in grid)
        values = rng.random((min(rows, TILE), min(cols, TILE)), dtype=np.float32)
        total += gain**octave * cv2.resize(values, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    low, high = np.percentile(total, (1, 99))
    return np.clip((total - low) / (high - low + 1e-6), 0, 1).astype(np.float32)


def cells(rng: np.random.Generator, count: int) -> NDArray:
    """Distance to the nearest of ``count`` random points, ``float32 [TILE, TILE]`` in [0, 1]."""
    seeds = np.full((TILE, TILE), 255, dtype=np.uint8)
    seeds[rng.integers(0, TILE, count), rng.integers(0, TILE, count)] = 0
    distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)
    return np.clip(distance / np.percentile(distance, 98), 0, 1).astype(np.float32)


def strokes(rng: np.random.Generator, count: int, length: int, angle: float, spread: float) -> NDArray:
    """Short straight strokes of random grey, ``float32 [TILE, TILE]`` in [0, 1]."""
    canvas = np.full((TILE, TILE), 96, dtype=np.uint8)
    xy = rng.integers(0, TILE, (count, 2))
    angles = angle + rng.normal(0, spread, count)
    for (x, y), a in zip(xy, angles, strict=True):
        tip = (int(x + length * np.cos(a)), int(y + length * np.sin(a)))
        cv2.line(canvas, (int(x), int(y)), tip, int(rng.integers(20, 235)), 1 + int(rng.integers(2)), cv2.LINE_AA)
    return canvas.astype(np.float32) / 255


def pattern(environment: str, rng: np.random.Generator, zoom: float) -> NDArray:
    """What an environment looks like before it is coloured, ``float32 [TILE, TILE]`` mostly in [0, 1].

    Raises ``ValueError`` for an unknown environment.
    """
    z = zoom
    if environment == "sand":
        warp = fractal(rng, (3 * z, 3 * z)) * 9
        rows = np.linspace(0, 40 * z, TILE, dtype=np.float32)[:, None]
        return 0.35 * (np.sin(rows + warp) * 0.5 + 0.5) + 0.65 * fractal(rng, (10 * z, 10 * z))
    if environment == "leaves":
        return 0.6 * cells(rng, int(260 * z * z)) + 0.4 * fractal(rng, (8 * z, 8 * z))
    if environment == "bark":
        return 0.75 * fractal(rng, (4 * z, 26 * z), 4) + 0.25 * fractal(rng, (20 * z, 20 * z), 2)
    if environment == "grass":
        return 0.7 * strokes(rng, int(2600 * z), int(26 / z), -1.4, 0.35) + 0.3 * fractal(rng, (6 * z, 6 * z))
    if environment == "water":
        return 0.8 * fractal(rng, (26 * z, 4 * z), 3) + 0.2 * fractal(rng, (5 * z, 5 * z))
    if environment == "stone":
        return 0.6 * fractal(rng, (7 * z, 7 * z), 6, 0.7) + 0.4 * (1 - cells(rng, int(50 * z * z)))
    if environment == "snow":
        return 0.7 * fractal(rng, (4 * z, 4 * z), 3) + 0.3 * fractal(rng, (60 * z, 60 * z), 1)
    if environment == "coral":
        return 0.75 * (1 - cells(rng, int(420 * z * z))) + 0.25 * fractal(rng, (5 * z, 5 * z))
    if environment == "mucosa":
        folds = np.abs(fractal(rng, (3 * z, 3 * z), 2) - 0.5) * 2
        return 0.6 * folds + 0.25 * fractal(rng, (12 * z, 12 * z)) + 0.15 * strokes(rng, 60, 40, 0.5, 1.5)
    if environment == "skin":
        return 0.6 * fractal(rng, (3 * z, 3 * z), 2) + 0.4 * fractal(rng, (70 * z, 70 * z), 2)
    raise ValueError(f"unknown environment {environment!r}")


def texture(environment: str, split: Split, seed: int) -> Image:
    """One tile, ``uint8 [400, 400, 3]``. Test tiles have scales and hues that training never shows."""
    rng = np.random.default_rng([ALL_ENVIRONMENTS.index(environment), int(split == "test"), seed])
    zoom = rng.uniform(1.12, 1.28) if split == "test" else rng.choice([rng.uniform(0.75, 1.1), rng.uniform(1.3, 1.6)])
    drawn = np.clip(pattern(environment, rng, float(zoom)), 0, 1)
    # the hue turns by a little; the middle of the range belongs to the test set
    turn = rng.uniform(-4, 4) if split == "test" else rng.choice([-1, 1]) * rng.uniform(4, 14)
    return coloured(environment, drawn, float(turn) / 2, rng)


def coloured(environment: str, drawn: NDArray, turn: float, rng: np.random.Generator) -> Image:
    """A pattern ``[H, W]`` in [0, 1] in the environment's palette, its hue turned by ``turn`` (OpenCV's units)."""
    palette = np.asarray(_PALETTES[environment], dtype=np.float32)
    hsv = cv2.cvtColor(palette[None].astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + turn) % 180
    hsv[..., 1:] *= rng.uniform(0.85, 1.15, (1, 1, 2))
    palette = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    stops = np.linspace(0, 1, len(palette))
    tile = np.stack([np.interp(drawn, stops, palette[:, c]) for c in range(3)], axis=-1)
    tile += rng.normal(0, 4, tile.shape)
    return np.clip(tile, 0, 255).astype(np.uint8)


class TextureBank:
    """Tiles drawn once and cut many times: ``count`` per environment, made by ``tile(environment, n)`` on first use."""

    def __init__(self, tile: Callable[[str, int], Image], count: int) -> None:
        self._tile = tile
        self._count = count
        self._tiles: dict[tuple[str, int], Image] = {}

    def cut(self, environment: str, size: tuple[int, int], rng: np.random.Generator) -> Image:
        """A random ``size`` (H, W <= 400) cut of a random tile, perhaps mirrored."""
        key = (environment, int(rng.integers(self._count)))
        if key not in self._tiles:
            self._tiles[key] = self._tile(*key)
        y, x = int(rng.integers(TILE - size[0] + 1)), int(rng.integers(TILE - size[1] + 1))
        piece = self._tiles[key][y : y + size[0], x : x + size[1]]
        return np.ascontiguousarray(piece[:, ::-1] if rng.random() < 0.5 else piece)
