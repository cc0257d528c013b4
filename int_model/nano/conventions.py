"""Annotation tasks that the bundled segmenter does not know: what a team corrects, in the miniature world.

``halo``: a new outline convention, the polyp or lesion with a rim of 8 % of its diameter. ``part``: the upper half of
the animal only. ``cells``: a domain that no model of the kit ever saw, several drawn cells an image. ``plain``: the
animals as the kit knows them, where learning must do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Box, Image, Mask
from int_model.nano.scenes import SIDE, SceneGenerator

Convention = Literal["halo", "part", "cells", "plain"]
CONVENTIONS: tuple[Convention, ...] = ("halo", "part", "cells", "plain")
_HALO = 0.08
_MEDICAL = ("polyp", "skin lesion")


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedScene:
    """An image, the task prompt that its project would use, and the objects as the convention wants them."""

    image: Image
    task: str
    masks: tuple[Mask, ...]


def annotated_scene(convention: Convention, index: int, *, seed: int = 4100) -> AnnotatedScene:
    """Scene ``index`` of a convention; the same for ever for one (convention, seed, index)."""
    if convention == "cells":
        return _cells(np.random.default_rng([seed, 7, index]))
    tasks = _MEDICAL if convention == "halo" else ("camouflaged animal",)
    chosen = tasks[index % len(tasks)] if convention == "halo" else tasks[0]
    generator = _generator(chosen, seed)
    scene = generator.scene(index)
    masks = [thing.mask for thing in scene.targets]
    if convention == "halo":
        masks = [_grown(mask) for mask in masks]
    elif convention == "part":
        masks = [_upper_half(mask) for mask in masks]
    return AnnotatedScene(scene.image, chosen, tuple(mask for mask in masks if mask.any()))


_GENERATORS: dict[tuple[str, int], SceneGenerator] = {}


def _generator(task: str, seed: int) -> SceneGenerator:
    if (task, seed) not in _GENERATORS:
        _GENERATORS[task, seed] = SceneGenerator("test", seed, tasks=(task,), weights=(1.0,))
    return _GENERATORS[task, seed]


def _grown(mask: Mask) -> Mask:
    reach = _HALO * 2 * np.sqrt(mask.sum() / np.pi)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(distance <= reach)


def _upper_half(mask: Mask) -> Mask:
    box = Box.of_mask(mask)
    if box is None:
        return mask
    half = mask.copy()
    half[round((box.y1 + box.y2) / 2) :] = False
    return half


def _cells(rng: np.random.Generator) -> AnnotatedScene:
    """Stained cells on a plate: bright membranes around a darker nucleus, on an uneven greenish ground."""
    size = SIDE
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    ground = cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), 12) * 90
    canvas = np.stack([96 + ground, 128 + ground, 104 + ground], axis=-1)
    masks: list[Mask] = []
    taken = np.zeros((size, size), dtype=np.bool_)
    for _ in range(int(rng.integers(3, 7))):
        for _ in range(20):
            radius = float(rng.uniform(14, 26))
            cx, cy = rng.uniform(radius, size - radius, 2)
            mask, depth = _cell_shape(rng, xs - cx, ys - cy, radius)
            if not (mask & taken).any():
                break
        else:
            continue
        taken |= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        masks.append(mask)
        tint = np.array([rng.uniform(-16, 10), rng.uniform(-22, -6), rng.uniform(4, 30)], dtype=np.float32)
        rim = np.exp(-((depth - 0.08) ** 2) / 0.004)[..., None] * rng.uniform(14, 34)
        nucleus = (depth > rng.uniform(0.55, 0.7))[..., None] * rng.uniform(-52, -30)
        canvas = np.where(mask[..., None], canvas + tint + rim + nucleus, canvas)
    noise = rng.normal(0, 4, canvas.shape)
    image = np.clip(cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.7) + noise, 0, 255).astype(np.uint8)
    return AnnotatedScene(image, "cell", tuple(masks))


def _cell_shape(
    rng: np.random.Generator, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: float
) -> tuple[Mask, NDArray[np.float32]]:
    """A rounded outline: its mask, and its depth (1 in the middle, 0 at the border)."""
    angle = np.arctan2(dy, dx)
    border = np.full_like(angle, 1.0)
    for wave in range(2, 6):
        border += rng.normal(0, 0.05) * np.cos(wave * angle + rng.uniform(0, 6.3))
    depth = 1 - np.hypot(dx, dy) / (radius * border)
    return np.asarray(depth > 0), np.clip(depth, 0, 1).astype(np.float32)
