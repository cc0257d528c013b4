from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from pycocotools import mask as coco

from int_model.core.types import Mask
from int_model.masks.rle import encode_counts, plain_run_lengths, segmentation_to_mask
from tests.unit.int_model.masks.shapes import noise


def runs_down_the_columns(mask: Mask) -> list[int]:
    """COCO's definition, one pixel at a time."""
    counts, value, run = [], False, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(run)
                value, run = not value, 0
            run += 1
    return [*counts, run]


@given(noise)
def test_run_lengths_are_cocos(mask: Mask) -> None:
    plain = plain_run_lengths(mask)
    assert plain == {"size": list(mask.shape), "counts": runs_down_the_columns(mask)}
    np.testing.assert_array_equal(segmentation_to_mask(plain, *mask.shape), mask)


@given(noise)
def test_compressed_run_lengths_come_back(mask: Mask) -> None:
    segmentation = {"size": list(mask.shape), "counts": encode_counts(mask)}
    np.testing.assert_array_equal(segmentation_to_mask(segmentation, *mask.shape), mask)


def test_polygons_are_read_as_pycocotools_draws_them() -> None:
    shapes = [[8, 4, 24, 4, 24, 16, 8, 16], [1, 1, 5, 1, 5, 5]]
    expected = coco.decode(coco.merge(coco.frPyObjects(shapes, 24, 32))).astype(bool)
    np.testing.assert_array_equal(segmentation_to_mask(shapes, 24, 32), expected)


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, "x", {"size": [2, 3]}, {"size": [2, 3], "counts": [2, 3]}, {"size": [2, 3], "counts": [-1, 7]},
     {"size": [2, 3], "counts": []}, {"size": ["a", 3], "counts": [6]},
     {"size": [2, 3], "counts": 5}, [[1, 2]], [["a"] * 6]],
)  # fmt: skip
def test_what_is_no_segmentation_is_refused(damaged: object) -> None:
    with pytest.raises(ValueError, match="segmentation cannot be read"):
        segmentation_to_mask(damaged, 2, 3)


def test_a_claimed_size_is_not_allocated() -> None:
    with pytest.raises(ValueError, match="1000000 x 1000000 pixels, the image 3 x 2"):
        segmentation_to_mask({"size": [10**6, 10**6], "counts": [10**12]}, 2, 3)
