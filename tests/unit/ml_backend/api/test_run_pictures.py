"""Small pictures with regions: every kind of region, any shape of image, damaged regions left out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from ml_backend.api.run_pictures import SIDE, draw


def rectangle(height: int, width: int, x: float, y: float, w: float, h: float, label: str = "A") -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "original_width": width, "original_height": height, "value": value}


def pixels(data: bytes) -> np.ndarray:
    with PilImage.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB")).astype(int)


@settings(max_examples=25)
@given(st.integers(1, 900), st.integers(1, 900))
def test_any_size_fits_and_keeps_its_shape(height: int, width: int) -> None:
    shown = pixels(draw(np.full((height, width, 3), 90, np.uint8), [rectangle(height, width, 0, 0, 100, 100)]))
    assert max(shown.shape[:2]) == min(SIDE, max(height, width))
    if min(shown.shape[:2]) > 8:
        assert shown.shape[1] / shown.shape[0] == pytest.approx(width / height, rel=0.1)


def test_only_what_is_inside_is_tinted_and_labels_have_colours_of_their_own() -> None:
    grey = np.full((200, 400, 3), 128, np.uint8)
    regions = [rectangle(200, 400, 0, 0, 25, 100, "A"), rectangle(200, 400, 75, 0, 25, 100, "B")]
    shown = pixels(draw(grey, regions))
    left, middle, right = shown[80, 40], shown[80, 160], shown[80, 280]
    assert np.abs(middle - 128).max() <= 3
    assert np.abs(left - 128).max() > 30
    assert np.abs(left - right).max() > 30
    same = pixels(draw(grey, [rectangle(200, 400, 0, 0, 25, 100), rectangle(200, 400, 75, 0, 25, 100)]))
    assert np.abs(same[80, 40] - same[80, 280]).max() <= 6


@pytest.mark.parametrize(
    "region",
    [
        {},
        {"value": {"points": [[0, 0]]}, "original_width": 40, "original_height": 20},
        rectangle(21, 40, 0, 0, 100, 100),  # of another picture
        {"value": {"rle": [1, 2, 3]}, "original_width": 40, "original_height": 20},
        {"value": {"ellipse": 1}, "original_width": 40, "original_height": 20, "type": "ellipselabels"},
    ],
)
def test_regions_that_cannot_be_drawn_are_left_out(region: dict[str, Any]) -> None:
    grey = np.full((20, 40, 3), 128, np.uint8)
    assert np.abs(pixels(draw(grey, [region])) - 128).max() <= 3


def test_what_is_smaller_than_a_pixel_still_shows() -> None:
    large = np.full((3000, 3000, 3), 128, np.uint8)
    shown = pixels(draw(large, [rectangle(3000, 3000, 50, 50, 0.05, 0.05)]))
    assert np.abs(shown - 128).max() > 30
