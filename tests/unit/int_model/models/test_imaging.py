"""The square that a vision-language model sees of an image."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.types import Box
from int_model.models.adapters.imaging import (
    CLIP_MEAN,
    by_size,
    content_key,
    from_square,
    mean_colour,
    normalise,
    pad_to_square,
    resize,
    same_length,
    shrink,
    square_frame,
    to_pil,
)

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


def colours(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_padding_has_the_colour_that_clip_was_trained_with() -> None:
    """OpenAI's means in [0, 1], by 255, rounded down: what LLaVA-1.5 computes."""
    assert mean_colour((0.48145466, 0.4578275, 0.40821073)) == CLIP_MEAN
    assert pad_to_square(colours(2, 4))[0, 0].tolist() == list(CLIP_MEAN)


def test_a_key_is_of_size_and_pixels() -> None:
    image = colours(6, 8)
    assert len(content_key(image)) == 16
    assert content_key(image) == content_key(np.asfortranarray(image.copy()))
    one_off = image.copy()
    one_off[5, 7, 2] ^= 1
    assert len({content_key(image), content_key(one_off), content_key(image.reshape(8, 6, 3))}) == 3


def test_the_largest_image_comes_first_and_equals_by_their_height() -> None:
    images = [colours(*size) for size in ((2, 9), (30, 10), (10, 30), (40, 5), (9, 2), (100, 100))]
    assert by_size(images) == [5, 2, 1, 3, 0, 4]


@pytest.mark.parametrize(("size", "longest", "small"), [((40, 60), 60, (40, 60)), ((40, 60), 30, (20, 30)),
                                                        ((60, 40), 30, (30, 20)), ((2, 900), 100, (1, 100)),
                                                        ((900, 2), 100, (100, 1))])  # fmt: skip
def test_shrinking_keeps_the_proportions_as_far_as_pixels_can(
    size: tuple[int, int], longest: int, small: tuple[int, int]
) -> None:
    image = colours(*size)
    got = shrink(image, longest)
    assert (got is image) == (size == small)
    expected = PIL.Image.fromarray(image).resize(small[::-1], PIL.Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, image if size == small else np.asarray(expected))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = colours(5, 7)
    assert resize(image, 5, 7, PIL.Image.Resampling.BICUBIC) is image
    expected = PIL.Image.fromarray(image).resize((5, 7), PIL.Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize(image, 7, 5, PIL.Image.Resampling.NEAREST), np.asarray(expected))


def test_normalising_is_per_channel_and_puts_channels_first() -> None:
    image, means, stds = colours(5, 7), (0.1, 0.4, 0.7), (0.5, 0.25, 2.0)
    got = normalise(image, means, stds)
    assert (got.shape, got.dtype, got.flags.c_contiguous) == ((3, 5, 7), np.float32, True)
    for channel in range(3):
        expected = (image[..., channel] / 255 - means[channel]) / stds[channel]
        np.testing.assert_allclose(got[channel], expected, atol=1e-6)


def test_an_image_three_pixels_high_keeps_its_axes() -> None:
    image = colours(3, 8)
    assert to_pil(image[:, ::-1]).size == (8, 3)
    np.testing.assert_array_equal(np.asarray(to_pil(image[:, ::-1])), image[:, ::-1])


def test_lists_of_a_call_have_one_length() -> None:
    same_length(images=[1, 2], names=["a", "b"])
    with pytest.raises(ValueError, match=r"one length, not \{'images': 2, 'names': 1\}"):
        same_length(images=[1, 2], names=["a"])
