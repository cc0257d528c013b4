"""The square that a vision-language model sees of an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.types import Box
from int_model.models.adapters.imaging import CLIP_MEAN, from_square, pad_to_square, square_frame

SIDES = st.integers(1, 300)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (30, 60), (60, 30), (20, 60), (60, 20), (7, 12)])
def test_square_shows_the_whole_image_and_boxes_come_back(height: int, width: int) -> None:
    """Defect 16: the VLM sees a centre crop, and its boxes are read as if it had seen everything."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = pad_to_square(image)
    side, left, top = square_frame(height, width)
    assert square.shape == (side, side, 3)
    assert np.array_equal(square[top : top + height, left : left + width], image)
    assert int((square == CLIP_MEAN).all(axis=2).sum()) >= side * side - height * width
    for box in (Box(0, 0, 2, 2), Box(1.5, 2.25, width, height - 1.0), Box.whole(height, width)):
        inside = box.shift(left, top)
        assert from_square(inside, height, width) == box
        marked = np.zeros((height, width), dtype=bool)
        marked |= box.to_mask(height, width)
        seen = np.zeros((side, side), dtype=bool)
        seen[top : top + height, left : left + width] = marked
        assert np.array_equal(inside.to_mask(side, side), seen)


@given(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_box_from_the_square_lies_in_the_image(
    height: int, width: int, a: float, b: float, c: float, d: float
) -> None:
    side = square_frame(height, width)[0]
    xs, ys = sorted((a * side, b * side)), sorted((c * side, d * side))
    if xs[0] < xs[1] and ys[0] < ys[1]:
        box = from_square(Box(xs[0], ys[0], xs[1], ys[1]), height, width)
        assert box is None or box.clip(height, width) == box


def test_boxes_in_the_padding_alone_are_none() -> None:
    assert from_square(Box(0, 0, 60, 10), 30, 60) is None
