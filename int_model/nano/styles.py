"""How further worlds look: their textures, how they disguise what is sought, and how their glyphs are drawn.

A style shares nothing with another but the palettes' places (sand stays sandy): its patterns, the arithmetic of its
blending and its family of glyphs are its own. Patches are ``float32 [h, w, 3]`` in 0..255, alphas in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image
from int_model.nano.textures import TILE, cells, coloured, fractal, pattern, strokes
from int_model.nano.world import ENVIRONMENTS

Floats = NDArray[np.float32]
Glyph = NDArray[np.uint8]
Pattern = Callable[[str, np.random.Generator], Floats]
Blend = Callable[[Floats, Floats, Floats, Floats, float, np.random.Generator], Floats]
Family = Callable[[Glyph], Glyph]


@dataclass(frozen=True, slots=True)
class Style:
    """A way of drawing.

    Attributes:
        number: seeds differ between styles by it.
        pattern: ``(environment, rng)`` to ``float32 [400, 400]`` in [0, 1], coloured with the environment's palette.
        blend: ``(ground, alpha [h, w], colour, texture, strength, rng)`` to the patch with the glyph in it; strength 0
            leaves its own colours, 1 gives it those of the ground.
        family: a glyph ``uint8 [136, 136, 4]`` redrawn.
        hue: by how much hues of glyphs turn at random, in OpenCV's units (90 is any hue).
        tint: by how much hues of palettes turn.
    """

    number: int
    pattern: Pattern
    blend: Blend
    family: Family
    hue: float
    tint: float

    def tile(self, environment: str, seed: int) -> Image:
        """A texture tile, ``uint8 [400, 400, 3]``."""
        rng = np.random.default_rng([self.number, ENVIRONMENTS.index(environment), seed])
        return coloured(environment, self.pattern(environment, rng), float(rng.uniform(-self.tint, self.tint)), rng)


# ------------------------------------------------------------------ textures


def mosaic_pattern(environment: str, rng: np.random.Generator) -> Floats:
    """Flat stones of one grey each between dark joints; size and order differ by environment."""
    place = ENVIRONMENTS.index(environment)
    count = int((160, 900, 260, 620, 200, 110, 80, 1200)[place] * rng.uniform(0.8, 1.25))
    seeds = np.full((TILE, TILE), 255, dtype=np.uint8)
    seeds[rng.integers(0, TILE, count), rng.integers(0, TILE, count)] = 0
    distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    slope = fractal(rng, (3, 3), 2)
    ys, xs = np.nonzero(seeds == 0)
    grey = np.zeros(int(owner.max()) + 1, dtype=np.float32)
    grey[owner[ys, xs]] = 0.55 * rng.random(len(ys)) + 0.45 * slope[ys, xs]
    joints = cv2.morphologyEx(owner.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    shine = np.clip(distance / max(1.0, float(distance.max())), 0, 1)
    out = np.where(joints, 0.35 * grey[owner], grey[owner] * (1 - 0.25 * shine))
    return np.asarray(out, dtype=np.float32)


def woven_pattern(environment: str, rng: np.random.Generator) -> Floats:
    """Threads that cross, bent by slow noise; angle and pitch differ by environment."""
    place = ENVIRONMENTS.index(environment)
    angle = place * np.pi / 8 + rng.normal(0, 0.08)
    pitch = (17.0, 9.0, 24.0, 7.0, 13.0, 20.0, 30.0, 11.0)[place] * rng.uniform(0.85, 1.2)
    ys, xs = np.mgrid[:TILE, :TILE].astype(np.float32)
    bend = 30 * fractal(rng, (3, 3), 3)
    u, v = xs * np.cos(angle) + ys * np.sin(angle) + bend, -xs * np.sin(angle) + ys * np.cos(angle) + bend[::-1]
    warp, weft = np.sin(2 * np.pi * u / pitch), np.sin(2 * np.pi * v / (pitch * 1.3))
    over = (np.sin(np.pi * u / pitch) * np.sin(np.pi * v / (pitch * 1.3))) > 0
    threads = np.where(over, 0.5 + 0.4 * warp, 0.45 + 0.35 * weft)
    return np.clip(0.75 * threads + 0.25 * fractal(rng, (12, 12)), 0, 1).astype(np.float32)


def drifting_pattern(environment: str, rng: np.random.Generator) -> Floats:
    """Spots and stripes as reaction and diffusion leave them: band-passed noise, pushed apart, stretched."""
    place = ENVIRONMENTS.index(environment)
    size = (5.0, 2.6, 4.0, 3.0, 6.5, 3.5, 8.0, 2.0)[place] * rng.uniform(0.85, 1.2)
    stretch = (1.0, 1.0, 3.2, 2.4, 0.4, 1.0, 1.4, 1.0)[place]
    field = rng.standard_normal((TILE, TILE)).astype(np.float32)
    inner = cv2.GaussianBlur(field, (0, 0), size, sigmaY=size * stretch)
    outer = cv2.GaussianBlur(field, (0, 0), 2 * size, sigmaY=2 * size * stretch)
    band = inner - outer
    spots = 1 / (1 + np.exp(-6 * band / (band.std() + 1e-6)))
    return np.clip(0.7 * spots + 0.3 * fractal(rng, (4, 4)), 0, 1).astype(np.float32)


def natural_pattern(environment: str, rng: np.random.Generator) -> Floats:
    """The first world's patterns at any scale, under grain of a second kind."""
    base = pattern(environment, rng, float(rng.uniform(0.7, 1.5)))
    second = (
        cells(rng, int(rng.uniform(80, 400))) if rng.random() < 0.5 else strokes(rng, 900, 12, rng.uniform(0, 3), 1)
    )
    share = float(rng.uniform(0, 0.3))
    return np.clip((1 - share) * base + share * second, 0, 1).astype(np.float32)


# ------------------------------------------------------------------ families of glyphs


def plain_family(glyph: Glyph) -> Glyph:
    """As the font draws it."""
    return glyph


def blocky_family(glyph: Glyph) -> Glyph:
    """Blocks of 6 pixels in four tones a channel."""
    small = cv2.resize(glyph, (23, 23), interpolation=cv2.INTER_AREA)
    small[..., :3] = (small[..., :3] // 64) * 64 + 32
    big = cv2.resize(small, glyph.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    big[..., 3] = cv2.GaussianBlur(np.where(big[..., 3] > 110, 255, 0).astype(np.uint8), (0, 0), 1.0)
    return big


def relief_family(glyph: Glyph) -> Glyph:
    """One colour, lit from the upper left: edges and depth remain, colours do not."""
    alpha = glyph[..., 3].astype(np.float32) / 255
    inside = alpha > 0.5
    grey = cv2.cvtColor(glyph[..., :3], cv2.COLOR_RGB2GRAY).astype(np.float32)
    tone = glyph[..., :3][inside].mean(axis=0)
    height = cv2.GaussianBlur(grey * alpha, (0, 0), 1.5)
    light = cv2.Sobel(height, cv2.CV_32F, 1, 1, ksize=3) * 0.6 + (grey - grey[inside].mean()) * 0.55
    body = np.clip(tone + light[..., None], 0, 255).astype(np.uint8)
    return np.dstack([body, glyph[..., 3]])


def engraved_family(glyph: Glyph) -> Glyph:
    """Hatched in its own darkest and lightest colour, with a firm outline."""
    alpha = glyph[..., 3]
    grey = cv2.cvtColor(glyph[..., :3], cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = alpha > 127
    level = (grey - grey[inside].min()) / max(1.0, float(np.ptp(grey[inside])))
    ys, xs = np.mgrid[: glyph.shape[0], : glyph.shape[1]]
    hatch = 0.5 + 0.5 * np.sin((xs + 1.6 * ys) * 0.9)
    lines = (level > 0.3 + 0.5 * hatch).astype(np.float32)
    edge = cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 60
    details = cv2.Canny(glyph[..., :3].copy(), 60, 140) > 0
    lines[edge | details] = 0
    colours = glyph[..., :3][inside].astype(np.float32)
    dark, light = np.percentile(colours, 10, axis=0), np.percentile(colours, 85, axis=0)
    body = dark + lines[..., None] * (light - dark)
    return np.dstack([np.clip(body, 0, 255).astype(np.uint8), alpha])


# ------------------------------------------------------------------ blending


def _over(ground: Floats, alpha: Floats, body: Floats, softness: float) -> Floats:
    soft = cv2.GaussianBlur(alpha, (0, 0), softness)[..., None]
    return (ground * (1 - soft) + np.clip(body, 0, 255) * soft).astype(np.float32)


def matched_blend(
    ground: Floats, alpha: Floats, colour: Floats, texture: Floats, strength: float, rng: np.random.Generator
) -> Floats:
    """Mean and spread of each channel move to those of the ground around it; then half of the texture shows through."""
    inside = alpha > 0.5
    own, there = colour[inside], ground[inside]
    spread = (there.std(axis=0) + 4) / (own.std(axis=0) + 4)
    disguised = (colour - own.mean(axis=0)) * np.minimum(spread, 1.2) + there.mean(axis=0) + rng.uniform(-6, 6)
    through = 0.45 * (texture - there.mean(axis=0))
    return _over(ground, alpha, (1 - strength) * colour + strength * (disguised + through), 0.7)


def multiplied_blend(
    ground: Floats, alpha: Floats, colour: Floats, texture: Floats, strength: float, rng: np.random.Generator
) -> Floats:
    """The ground runs on through the body, lighter and darker by the body's shading, with a thin shadow below it."""
    inside = alpha > 0.5
    shade = cv2.GaussianBlur(colour.mean(axis=-1), (0, 0), 0.8)
    shade = (shade - shade[inside].mean()) / 140
    disguised = ground * np.exp(0.85 * shade[..., None]) + rng.uniform(-4, 4) + 0 * texture
    shadow = cv2.GaussianBlur(np.roll(alpha, (3, 2), axis=(0, 1)), (0, 0), 2.0)[..., None] * 0.22 * strength
    return _over(ground * (1 - shadow), alpha, (1 - strength) * colour + strength * disguised, 0.6)


def banded_blend(
    ground: Floats, alpha: Floats, colour: Floats, texture: Floats, strength: float, rng: np.random.Generator
) -> Floats:
    """Coarse tones come from the ground, fine ones from the body (two bands of a pyramid), with a wide soft edge."""
    radius = 5.0
    weight = cv2.GaussianBlur(alpha, (0, 0), radius)[..., None] + 1e-3
    coarse = cv2.GaussianBlur(colour * alpha[..., None], (0, 0), radius) / weight
    tone = cv2.GaussianBlur(texture, (0, 0), radius)
    fine = (colour - coarse).mean(axis=-1, keepdims=True)
    disguised = tone + 0.75 * fine + 0.5 * (texture - tone) + rng.uniform(-5, 5)
    return _over(ground, alpha, (1 - strength) * colour + strength * disguised, 1.0)


def toned_blend(
    ground: Floats, alpha: Floats, colour: Floats, texture: Floats, strength: float, rng: np.random.Generator
) -> Floats:
    """The shading stays, the colours become the texture's; the body's contrast sinks with the strength."""
    inside = alpha > 0.5
    shade = colour.mean(axis=-1)
    shade = (shade - shade[inside].mean()) / 255 * (1 - 0.35 * strength)
    disguised = texture * (1 + 0.8 * shade[..., None]) + 60 * shade[..., None] + rng.uniform(-8, 8)
    return _over(ground, alpha, (1 - strength) * colour + strength * disguised, 0.6)


MOSAIC = Style(11, mosaic_pattern, matched_blend, blocky_family, hue=12, tint=5)
WOVEN = Style(12, woven_pattern, multiplied_blend, relief_family, hue=90, tint=6)
DRIFT = Style(13, drifting_pattern, banded_blend, engraved_family, hue=25, tint=7)
NATURAL = Style(14, natural_pattern, toned_blend, plain_family, hue=6, tint=4)
