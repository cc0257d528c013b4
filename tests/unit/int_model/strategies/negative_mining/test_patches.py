from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.core.types import Box
from int_model.strategies.negative_mining.patches import (
    CLIP_MEAN,
    from_square,
    make_patches,
    pad_to_square,
    square_frame,
)

SIDES = st.integers(1, 300)


def corners(height: int, width: int, **options: object) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in p.box.as_tuple()) for p in make_patches(height, width, **options)]  # type: ignore[arg-type]


def test_nine_patches_of_an_ordinary_image() -> None:
    assert corners(60, 80) == [
        (0, 0, 80, 60),
        (0, 0, 40, 60),
        (40, 0, 80, 60),
        (0, 0, 80, 30),
        (0, 30, 80, 60),
        (0, 0, 40, 30),
        (40, 0, 80, 30),
        (0, 30, 40, 60),
        (40, 30, 80, 60),
    ]


@pytest.mark.parametrize(("scales", "count"), [((1,), 1), ((1, 2), 5), ((2,), 4), ((1, 4), 5), ((1, 2, 4), 9)])
def test_scales_choose_patches(scales: tuple[int, ...], count: int) -> None:
    patches = make_patches(60, 80, scales)
    assert [p.index for p in patches] == list(range(count))
    assert {p.scale for p in patches} == set(scales)


def test_strips_cut_the_longer_side_twice() -> None:
    assert corners(50, 100, scales=(4,), quarters="strips") == [
        (0, 0, 25, 50),
        (25, 0, 50, 50),
        (50, 0, 75, 50),
        (75, 0, 100, 50),
    ]
    assert set(corners(60, 80, scales=(4,), quarters="strips")) == set(corners(60, 80, scales=(4,)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), [(0, 0, 1, 1)]),
        ((1, 2), [(0, 0, 2, 1), (0, 0, 1, 1), (1, 0, 2, 1)]),
        ((2, 1), [(0, 0, 1, 2), (0, 0, 1, 1), (0, 1, 1, 2)]),
    ],
)
def test_tiny_images_lose_empty_and_repeated_patches(size: tuple[int, int], expected: list[tuple[int, ...]]) -> None:
    assert corners(*size) == expected


@given(SIDES, SIDES, st.sampled_from(["grid", "strips"]))
def test_patches_are_distinct_parts_and_quarters_cover_the_image(height: int, width: int, quarters: str) -> None:
    patches = make_patches(height, width, quarters=quarters)  # type: ignore[arg-type]
    assert len({p.box.as_tuple() for p in patches}) == len(patches) <= 9
    covered = np.zeros((height, width), dtype=int)
    for patch in patches:
        assert patch.box.clip(height, width) == patch.box
        if patch.scale == 4:
            covered[patch.slices] += 1
    if height > 1 and width > 1:
        assert covered.min() == covered.max() or quarters == "strips"
        assert covered.max() <= 1
        assert len(patches) >= 8


def test_other_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 2 and 4, not 3"):
        make_patches(10, 10, (3,))


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
