"""Masks drawn on images: tints, outlines, captions, comparisons with the truth."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image as PilImage

from int_model.core.types import Instance
from int_model.io.drawing import CORRECT, EXTRA, MISSED, colour_of, comparison, overlay


def test_overlay_colours_each_object_and_leaves_the_rest() -> None:
    image = np.full((120, 160, 3), 100, np.uint8)
    first, second = np.zeros((120, 160), bool), np.zeros((120, 160), bool)
    first[60:100, 10:60], second[60:100, 90:150] = True, True
    drawn = overlay(image, [Instance.of_mask(first, "lizard", 0.9), Instance.of_mask(second, "日本 <b>", 0.4)])

    assert drawn.shape == image.shape
    assert (image == 100).all(), "the input is not drawn on"
    for i, (y, x) in enumerate([(80, 35), (80, 120)]):
        expected = np.rint(0.6 * 100 + 0.4 * np.array(colour_of(i)))
        np.testing.assert_allclose(drawn[y, x], expected, atol=1)
    assert (drawn[110:, :] == 100).all()
    assert not (drawn[40:58, 10:60] == 100).all(), "the caption stands above the object"


def test_overlay_of_a_single_pixel_and_of_a_wrong_size() -> None:
    instance = Instance.of_mask(np.ones((1, 1), bool), "dot", 1.0)
    assert overlay(np.zeros((1, 1, 3), np.uint8), [instance]).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="mask of instance 0"):
        overlay(np.zeros((2, 2, 3), np.uint8), [instance])


def colour_share(jpeg: bytes, colour: Sequence[int], where: np.ndarray) -> float:
    pixels = np.asarray(PilImage.open(io.BytesIO(jpeg)).convert("RGB").resize(where.shape[::-1])).astype(float)
    tint = np.array(colour, dtype=float) - np.mean(colour)
    inside = pixels[where] - pixels[where].mean(axis=1, keepdims=True)
    return float(((inside @ tint) > 0.5 * (np.linalg.norm(inside, axis=1) * np.linalg.norm(tint))).mean())


def test_the_picture_tells_right_from_extra_from_missed() -> None:
    image = np.full((60, 80, 3), 120, dtype=np.uint8)
    truth, mask = np.zeros((60, 80), dtype=np.bool_), np.zeros((60, 80), dtype=np.bool_)
    truth[10:50, 10:40], mask[10:50, 25:60] = True, True
    core = np.zeros_like(truth)
    for colour, columns in ((CORRECT, slice(29, 36)), (EXTRA, slice(45, 55)), (MISSED, slice(14, 21))):
        core[:] = False
        core[15:45, columns] = True
        assert colour_share(comparison(image, mask, truth), colour, core) > 0.95
    assert comparison(image, ~truth & truth, truth & ~truth)
