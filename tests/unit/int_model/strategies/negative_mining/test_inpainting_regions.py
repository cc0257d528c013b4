from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from int_model.core.types import Box, Mask
from int_model.strategies.negative_mining.inpainting import (
    bounded,
    grow,
    image_mask,
    mask_iou,
    on_canvas,
    paste_back,
    patch_masks,
)
from int_model.strategies.negative_mining.patches import make_patches

PATCHES = make_patches(40, 60, (1, 2))


@given(arrays(np.bool_, (12, 15)), st.floats(0, 4))
def test_grow_adds_exactly_the_near_pixels(mask: Mask, radius: float) -> None:
    grown = grow(mask, radius)
    yy, xx = np.mgrid[:12, :15]
    ys, xs = np.nonzero(mask)
    if len(ys) == 0:
        assert not grown.any()
        return
    distance = np.sqrt(((yy[..., None] - ys) ** 2 + (xx[..., None] - xs) ** 2).min(axis=-1))
    clear = np.abs(distance - radius) > 0.05 * distance + 1e-6  # OpenCV's distances are approximate
    assert np.array_equal(grown[clear], (distance <= radius)[clear])


def test_each_patch_loses_its_own_box() -> None:
    boxes = [Box(10, 10, 20, 20), None, Box(40, 5, 50, 15), Box(0, 0, 60, 20), None]
    masks = patch_masks(PATCHES, boxes, dilation=0)
    assert [mask.shape for mask in masks] == [patch.size for patch in PATCHES]
    assert np.array_equal(masks[0], boxes[0].to_mask(40, 60))  # type: ignore[union-attr]
    assert np.array_equal(masks[2], Box(10, 5, 20, 15).to_mask(40, 30))
    assert masks[3].all()


def test_a_patch_without_a_box_stays_as_it_is() -> None:
    boxes = [Box(10, 10, 20, 20), None, Box(40, 5, 50, 15), None, None]
    masks = patch_masks(PATCHES, boxes, dilation=0.05)
    assert [bool(mask.any()) for mask in masks] == [True, False, True, False, False]


@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_no_patch_loses_more_than_its_bound(part: float) -> None:
    boxes = [Box(0, 0, 60, 40)] * 5
    for mask, patch in zip(patch_masks(PATCHES, boxes, dilation=0.05, max_part=part), PATCHES, strict=True):
        assert int(mask.sum()) == int(part * mask.size)
        height, width = patch.size
        assert mask[height // 2, width // 2]  # the inner part goes, the rim stays
        assert not mask[0, 0]


def test_the_inner_part_of_a_region_is_the_deepest() -> None:
    """Against exact distances to what is outside, the patch's own surroundings among it."""
    mask = np.zeros((30, 50), bool)
    mask[2:28, 0:41] = True
    mask[10:14, 20:26] = False
    kept = bounded(mask, 0.4)
    assert int(kept.sum()) == 600
    assert not (kept & ~mask).any()
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert depth[kept].min() >= 0.95 * depth[mask & ~kept].max()  # OpenCV's distances are approximate


@pytest.mark.parametrize(("share", "pixels"), [(0.5, 5), (0.49, 4), (0.0, 0), (1.0, 10)])
def test_a_bound_is_rounded_down_and_reached(share: float, pixels: int) -> None:
    mask = np.ones((2, 5), bool)
    assert int(bounded(mask, share).sum()) == pixels
    part = np.zeros((2, 5), bool)
    part[0] = True
    assert (bounded(part, share) is part) == (pixels >= 5)


def test_a_patchs_region_grows_with_the_patch() -> None:
    """By a twentieth of its own diagonal: 3.6 pixels in the whole image, 2.5 in a half."""
    boxes = [Box(20, 15, 28, 23)] * 5
    for patch, mask in zip(PATCHES, patch_masks(PATCHES, boxes, dilation=0.05), strict=True):
        own = patch.from_image(boxes[0])
        if own is None:
            assert not mask.any()
            continue
        away = ndimage.distance_transform_edt(~own.to_mask(*patch.size))
        radius = 0.05 * float(np.hypot(*patch.size))
        clear = np.abs(away - radius) > 0.05 * away
        np.testing.assert_array_equal(mask[clear], (away <= radius)[clear])


def test_a_region_within_the_bound_is_removed_whole() -> None:
    boxes = [Box(10, 10, 20, 20)] * 5
    free, bound = (patch_masks(PATCHES, boxes, dilation=0, max_part=part) for part in (1.0, 0.9))
    assert all(np.array_equal(a, b) for a, b in zip(free, bound, strict=True))


def test_a_patch_without_a_box_may_lose_what_the_others_cover_of_it() -> None:
    boxes = [Box(10, 10, 20, 20), None, Box(40, 5, 50, 15), None, None]
    masks = patch_masks(PATCHES, boxes, dilation=0, without_box="others")
    assert np.array_equal(masks[1], Box(10, 10, 20, 20).to_mask(40, 30))
    assert int(masks[3].sum()) == 200
    assert not patch_masks(PATCHES, [None] * 5, dilation=0.05)[0].any()


def test_growth_follows_the_diagonal() -> None:
    box = Box(20, 15, 30, 25)
    mask = image_mask((40, 60), [box, None], dilation=0.05)  # diagonal 72.1, so 3.6 pixels
    assert Box.of_mask(mask) == Box(17, 12, 33, 28)


@given(
    arrays(np.uint8, (6, 8, 3)),
    arrays(np.uint8, (6, 8, 3)),
    arrays(np.bool_, (6, 8)),
)
def test_paste_back_changes_nothing_outside_the_region(original: np.ndarray, filled: np.ndarray, mask: Mask) -> None:
    out = paste_back(original, filled, mask)
    assert np.array_equal(out[~mask], original[~mask])
    assert np.array_equal(out[mask], filled[mask])


def test_paste_back_refuses_another_size() -> None:
    with pytest.raises(RuntimeError, match="inpainter"):
        paste_back(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8), np.ones((4, 4), bool))


def test_canvas_and_iou() -> None:
    masks = patch_masks(PATCHES, [Box(10, 10, 20, 20)] * 5, dilation=0)
    canvas = on_canvas((40, 60), PATCHES, masks)
    assert np.array_equal(canvas, Box(10, 10, 20, 20).to_mask(40, 60))
    empty = np.zeros((40, 60), bool)
    assert mask_iou(canvas, canvas) == mask_iou(empty, empty) == 1
    assert mask_iou(canvas, empty) == 0
