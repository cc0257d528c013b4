"""Augmented views of an example. They are made before encoding, since the encoder is frozen and its output is kept."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from int_model.core.types import Image, Mask
from int_model.learning.examples import Clicks, Example, Target

_LEAST_LEFT = 0.6  # of an object's pixels must stay in view


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What views may change. A flip that breaks a convention (an upper half) harms: switch it off where sides matter.

    Attributes:
        views: views per image, the original among them.
        flip: mirror left and right in half of the views.
        scale: range of the zoom.
        degrees: largest turn.
        colour: largest change of brightness and contrast, as a share.
    """

    views: int = 8
    flip: bool = True
    scale: tuple[float, float] = (0.8, 1.25)
    degrees: float = 15.0
    colour: float = 0.12


def views_of(example: Example, how: Augmentation, rng: np.random.Generator) -> list[Example]:
    """The example itself and ``how.views - 1`` changed copies; objects that leave the view are left out."""
    return [example, *(_view(example, how, rng) for _ in range(how.views - 1))]


def _view(example: Example, how: Augmentation, rng: np.random.Generator) -> Example:
    height, width = example.image.shape[:2]
    # OpenCV counts from the middle of the first pixel: the image reaches from -0.5 to width - 0.5.
    middle = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(
        middle, float(rng.uniform(-how.degrees, how.degrees)), float(rng.uniform(*how.scale))
    )
    if how.flip and rng.random() < 0.5:
        mirror = np.array([[-1.0, 0, width - 1], [0, 1.0, 0], [0, 0, 1.0]])
        matrix = matrix @ mirror
    image = cv2.warpAffine(
        example.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    gain, shift = 1 + rng.uniform(-how.colour, how.colour), 255 * rng.uniform(-how.colour, how.colour) / 2
    image = np.clip(image.astype(np.float32) * gain + shift, 0, 255).astype(np.uint8)
    targets = []
    for target in example.targets:
        mask = _warp(target.mask, matrix)
        expected = float(target.mask.sum()) * abs(float(np.linalg.det(matrix[:, :2])))
        if mask.sum() >= _LEAST_LEFT * expected and mask.sum() >= 16:
            clicks = tuple(moved for entry in target.clicks if (moved := _move(entry, matrix, (height, width))))
            targets.append(Target(target.label, mask, target.weight, clicks))
    return Example(_contiguous(image), tuple(targets), example.unit, example.id)


def _warp(mask: Mask, matrix: NDArray[np.float64]) -> Mask:
    height, width = mask.shape
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), matrix, (width, height)) > 0.5)


def _move(clicks: Clicks, matrix: NDArray[np.float64], size: tuple[int, int]) -> Clicks | None:
    moved = (clicks.points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    inside = ((moved >= 0) & (moved < (size[1], size[0]))).all(axis=1)
    return Clicks(moved[inside], clicks.labels[inside]) if inside.any() else None


def _contiguous(image: Image) -> Image:
    return np.ascontiguousarray(image)
