"""Ellipses of Label Studio as masks: centre, radii in percent of each side, turned about the centre."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_model.masks.rings import rasterise
from ml_backend.labelstudio.regions.decode import NotAnAreaError, OtherSizeError, decode_region, region_labels
from ml_backend.labelstudio.regions.ellipse import decode_ellipse, encode_ellipse

percent = st.floats(-20, 120)
radius = st.floats(5, 60)


@given(x=percent, y=percent, radius_x=radius, radius_y=radius, rotation=st.floats(-360, 360))
def test_it_covers_what_a_polygon_of_many_corners_covers(
    x: float, y: float, radius_x: float, radius_y: float, rotation: float
) -> None:
    height, width = 60, 90
    value = {"x": x, "y": y, "radiusX": radius_x, "radiusY": radius_y, "rotation": rotation}
    got = decode_ellipse(value, height, width)
    axes = (radius_x * width / 100, radius_y * height / 100)
    centre = (x * width / 100, y * height / 100)
    angles = np.radians(np.arange(0, 360, 0.5))
    points = np.stack([axes[0] * np.cos(angles), axes[1] * np.sin(angles)], axis=1)
    turn = math.radians(rotation)
    ring = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) + centre
    assert (got != rasterise([ring], height, width)).sum() <= 2  # centres between the arc and its chords


def test_a_rotation_turns_clockwise_about_the_centre() -> None:
    flat = decode_ellipse({"x": 50, "y": 50, "radiusX": 40, "radiusY": 10}, 80, 80)
    upright = decode_ellipse({"x": 50, "y": 50, "radiusX": 40, "radiusY": 10, "rotation": 90}, 80, 80)
    slanted = decode_ellipse({"x": 50, "y": 50, "radiusX": 40, "radiusY": 10, "rotation": 45}, 80, 80)
    np.testing.assert_array_equal(upright, flat.T)
    assert flat[40, 70]
    assert slanted[55, 55]
    assert not slanted[25, 55]


@pytest.mark.parametrize("value", [{"radiusX": 0, "radiusY": 5}, {"radiusX": 5, "radiusY": 0}])
def test_without_extent_it_is_empty(value: dict[str, Any]) -> None:
    assert not decode_ellipse({"x": 50, "y": 50, **value}, 10, 10).any()


@pytest.mark.parametrize("value", [{}, {"x": "a"}, {"x": None}, {"radiusY": float("inf")}, {"rotation": float("nan")}])
def test_damaged_ones_are_errors(value: dict[str, Any]) -> None:
    whole = {"x": 1, "y": 1, "radiusX": 1, "radiusY": 1} if value else {"radiusX": 1}
    with pytest.raises(ValueError, match="ellipse"):
        decode_ellipse({**whole, **value}, 10, 10)


def test_kinds_and_sizes_are_told_apart_from_damage() -> None:
    frame = {"original_width": 4, "original_height": 4}
    with pytest.raises(NotAnAreaError):
        decode_region({**frame, "type": "keypoint", "value": {"x": 1, "y": 1, "width": 1}})
    with pytest.raises(OtherSizeError, match="4 x 4 pixels, the image has 5 x 4"):
        decode_region({**frame, "value": {"rle": []}}, (4, 5))


def test_labels_of_anything() -> None:
    assert region_labels({"value": {"ellipselabels": ["a", 2], "points": [], "labels": "x", "brushlabels": ["b"]}}) == [
        "a",
        "2",
        "b",
    ]
    assert region_labels(None) == region_labels({"value": 3}) == region_labels({}) == []


@given(
    x=st.floats(35, 65),
    y=st.floats(35, 65),
    across=st.floats(0.12, 0.3),
    down=st.floats(0.12, 0.3),
    rotation=st.floats(0, 180),
)
def test_an_ellipse_comes_back(x: float, y: float, across: float, down: float, rotation: float) -> None:
    height, width = 120, 200
    value = {"x": x, "y": y, "radiusX": 60 * across, "radiusY": 100 * down, "rotation": rotation}
    mask = decode_ellipse(value, height, width)
    made = encode_ellipse(mask)
    assert made is not None
    assert 0 <= made["rotation"] <= 180
    back = decode_ellipse(made, height, width)
    assert (mask & back).sum() / (mask | back).sum() > 0.97


def test_an_empty_mask_has_no_ellipse_and_a_pixel_has_one() -> None:
    mask = np.zeros((10, 20), bool)
    assert encode_ellipse(mask) is None
    mask[3, 7] = True
    made = encode_ellipse(mask)
    assert made is not None
    assert (made["x"], made["y"]) == (37.5, 35.0)
    spread = 2 / math.sqrt(12)  # two standard deviations of what is spread over one pixel
    assert (made["radiusX"], made["radiusY"]) == (round(100 * spread / 20, 3), round(100 * spread / 10, 3))
    assert decode_ellipse(made, 10, 20).sum() == 1
    line = np.zeros((10, 20), bool)
    line[5, 2:18] = True
    made = encode_ellipse(line)
    assert made is not None
    assert (decode_ellipse(made, 10, 20) & line).sum() >= 15
