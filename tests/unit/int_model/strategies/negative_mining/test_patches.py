from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.strategies.negative_mining.patches import make_patches

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
