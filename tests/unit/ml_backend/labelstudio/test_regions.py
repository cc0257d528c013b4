from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PilImage

from int_model.core.types import Box
from int_model.masks.rings import rasterise, signed_area
from ml_backend.labelstudio.regions.bitmask import decode_bitmask, encode_bitmask
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.regions.polygon import PolygonOptions, mask_to_parts, points_to_mask
from ml_backend.labelstudio.regions.rectangle import decode_rectangle, encode_rectangle
from ml_backend.labelstudio.regions.rle import decode_alpha, decode_mask, encode_alpha, encode_mask

GOLDEN = json.loads((Path(__file__).parent / "rle_golden.json").read_text())
noise = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Smooth shapes with holes and several parts, like a segmenter's masks."""
    seed, level, sigma = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.35, 0.65)), draw(st.floats(1.5, 5.0))
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    field = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width), dtype=np.float32), (0, 0), sigma)
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-9) > level


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


# --- brush ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "code"),
    [
        ([[0, 255], [255, 0]], [0, 0, 0, 16, 57, 27, 252, 96, 19, 255, 198, 0]),
        ([[255] * 4] * 2, [0, 0, 0, 32, 57, 27, 254, 31, 255, 0]),
        ([[0] * 3] * 3, [0, 0, 0, 36, 57, 27, 254, 35, 0, 0]),
    ],
)
def test_rle_vectors(alpha: list[list[int]], code: list[int]) -> None:
    assert encode_alpha(np.array(alpha, np.uint8)) == code
    assert decode_alpha(code, len(alpha), len(alpha[0])).tolist() == alpha


@pytest.mark.parametrize("case", GOLDEN["masks"], ids=lambda case: case["name"])
def test_rle_is_byte_identical_to_the_sdk(case: dict) -> None:
    height, width = case["size"]
    packed = np.frombuffer(base64.b64decode(case["bits"]), np.uint8)
    mask = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
    assert bytes(encode_mask(mask)) == base64.b64decode(case["rle"])
    np.testing.assert_array_equal(decode_mask(list(base64.b64decode(case["rle"])), height, width), mask)


@pytest.mark.parametrize("case", GOLDEN["literals"], ids=lambda case: case["name"])
def test_rle_decoder_reads_literals(case: dict) -> None:
    height, width = case["size"]
    alpha = np.frombuffer(base64.b64decode(case["alpha"]), np.uint8).reshape(height, width)
    np.testing.assert_array_equal(decode_alpha(list(base64.b64decode(case["rle"])), height, width), alpha)


@settings(max_examples=80, deadline=None)
@given(noise | blobs())
def test_rle_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), *mask.shape), mask)


def test_rle_splits_long_runs() -> None:
    mask = np.zeros((300, 400), bool)
    mask[299, 399] = True
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), 300, 400), mask)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ([], "too early"),
        ([0, 0, 0, 16, 57, 27, 252], "too early"),
        ([0, 0, 0, 32, 57, 27, 254, 31, 255, 0], "another|needs"),
        ([0, 0, 0, 16, 255, 27, 252, 96, 19, 255, 198, 0], "8-bit"),
        ([300], "0..255"),
        (["a"], "0..255"),
        ([0, 0, 0, 16, 57, 27, 255, 255, 255, 255, 255], "past the end"),
    ],
)
def test_damaged_rle_is_an_error(code: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_mask(code, 2, 2)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise_value_error(data: bytes) -> None:
    code = [0, 0, 0, 48, 57, 27, *data]
    with contextlib.suppress(ValueError):
        assert decode_mask(code, 3, 4).shape == (3, 4)


# --- polygon ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(noise | blobs())
def test_without_a_budget_polygons_hold_exactly_the_pixels(mask: np.ndarray) -> None:
    parts = mask_to_parts(mask, PolygonOptions(epsilon=0.0, min_area=0))
    covered = np.zeros(mask.shape, int)
    for part in parts:
        got = points_to_mask(part.points, *mask.shape)
        np.testing.assert_array_equal(got, part.mask)
        covered += got
    np.testing.assert_array_equal(covered, mask.astype(int))


@settings(max_examples=60, deadline=None)
@given(noise | blobs(), st.floats(0.5, 6.0), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_simplified_polygons_keep_the_stated_iou(mask: np.ndarray, epsilon: float, bound: float) -> None:
    parts = mask_to_parts(mask, PolygonOptions(epsilon=epsilon, min_iou=bound, min_area=0))
    total = np.zeros(mask.shape, bool)
    for part in parts:
        got = points_to_mask(part.points, *mask.shape)
        assert iou(got, part.mask) >= bound
        total |= got
        assert len(part.points) >= 3
        assert part.points.min() >= 0.0
        assert part.points.max() <= 100.0
        assert (part.points[0] != part.points[-1]).any()
    assert [part.mask.sum() for part in parts] == sorted((p.mask.sum() for p in parts), reverse=True)
    assert bool(parts) == bool(mask.any())


@settings(max_examples=60, deadline=None)
@given(blobs(), st.integers(3, 30))
def test_the_limit_of_points_is_kept(mask: np.ndarray, limit: int) -> None:
    for part in mask_to_parts(mask, PolygonOptions(max_points=limit)):
        assert 3 <= len(part.points) <= limit
        assert points_to_mask(part.points, *mask.shape).shape == mask.shape


@settings(max_examples=60, deadline=None)
@given(blobs(), st.integers(0, 60))
def test_small_parts_and_holes_go_but_never_the_largest(mask: np.ndarray, min_area: int) -> None:
    parts = mask_to_parts(mask, PolygonOptions(min_area=min_area))
    assert bool(parts) == bool(mask.any())
    assert all(part.mask.sum() >= min_area for part in parts[1:])
    for part in parts:
        count, labels = cv2.connectedComponents((~np.pad(part.mask, 1)).astype(np.uint8), connectivity=4)
        sizes = [int((labels == i).sum()) for i in range(1, count) if i != labels[0, 0]]
        assert all(size >= min_area for size in sizes)
        assert part.has_holes == bool(sizes)


def ring_mask() -> np.ndarray:
    yy, xx = np.mgrid[:120, :160]
    distance = (yy - 60) ** 2 + (xx - 80) ** 2
    return (distance < 50**2) & (distance > 25**2)


@pytest.mark.parametrize(("holes", "kept"), [("bridge", True), ("brush", True), ("drop", False)])
def test_holes_follow_the_policy(holes: str, kept: bool) -> None:
    mask = ring_mask()
    (part,) = mask_to_parts(mask, PolygonOptions(holes=holes))
    assert part.has_holes == kept
    got = points_to_mask(part.points, *mask.shape)
    assert got[60, 80] != kept
    if kept:
        assert iou(got, mask) > 0.97


def test_bridged_holes_are_holes_for_the_non_zero_rule_too() -> None:
    """Browsers fill by winding: holes run against the outer ring. OpenCV's fill stands in for the browser."""
    (part,) = mask_to_parts(ring_mask(), PolygonOptions())
    ring = part.points * (1.6, 1.2)
    assert signed_area(ring) == pytest.approx(ring_mask().sum(), rel=0.03)
    fill = np.zeros((120, 160), np.uint8)
    cv2.fillPoly(fill, [np.round(ring * 256).astype(np.int32)], 1, shift=8)
    assert iou(fill > 0, ring_mask()) > 0.9


def test_parts_of_a_mask_are_separate() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:10, 2:10] = mask[20:38, 20:38] = True
    first, second = mask_to_parts(mask)
    assert first.points.tolist() == [[50, 50], [95, 50], [95, 95], [50, 95]]
    assert second.mask.sum() == 64


def test_a_thin_diagonal_line_stays_one_part() -> None:
    (part,) = mask_to_parts(np.eye(30, dtype=bool), PolygonOptions(epsilon=0.0))
    np.testing.assert_array_equal(points_to_mask(part.points, 30, 30), np.eye(30, dtype=bool))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 35)), min_size=3, max_size=9))
def test_rasteriser_agrees_with_point_in_polygon(ring: list[tuple[float, float]]) -> None:
    got = rasterise([np.array(ring)], 30, 30)
    rng = np.random.default_rng(0)
    for x, y in rng.integers(0, 30, (40, 2)):
        px, py, inside, close = x + 0.5, y + 0.5, False, False
        for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
            if (y1 > py) != (y2 > py):
                cross = x1 + (py - y1) * (x2 - x1) / (y2 - y1)
                inside ^= px < cross
                close |= abs(cross - px) < 1e-5
            close |= abs(y1 - py) < 1e-5
        assert close or got[y, x] == inside


@pytest.mark.parametrize(
    "options",
    [{"epsilon": -1}, {"epsilon": float("nan")}, {"min_iou": 1.5}, {"min_area": -1}, {"max_points": 2}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PolygonOptions(**options)


@pytest.mark.parametrize(
    "points", [[], [[0, 0], [1, 1]], [[0, 0], [1, 1], [float("nan"), 2]], [1, 2, 3], [["a", 1]] * 3, [[None, 1]] * 3]
)
def test_bad_polygons_are_errors(points: list) -> None:
    with pytest.raises(ValueError, match="polygon"):
        points_to_mask(points, 10, 10)


# --- bitmask and rectangle --------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(noise)
def test_bitmask_round_trip(mask: np.ndarray) -> None:
    url = encode_bitmask(mask)
    np.testing.assert_array_equal(decode_bitmask(url, *mask.shape), mask)
    with PilImage.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
        assert picture.mode == "LA"
        assert picture.size == mask.shape[::-1]


def test_opaque_grey_bitmasks_are_read_by_their_red_channel() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:5] = True
    out = io.BytesIO()
    PilImage.fromarray((mask * 255).astype(np.uint8)).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    np.testing.assert_array_equal(decode_bitmask(url, 6, 9), mask)


@pytest.mark.parametrize(
    "url", ["", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,AAAA", "data:image/png;base64,%%"]
)
def test_bad_bitmasks_are_errors(url: str) -> None:
    with pytest.raises(ValueError, match="bitmask"):
        decode_bitmask(url, 3, 3)
    with pytest.raises(ValueError, match="not 4 x 4"):
        decode_bitmask(encode_bitmask(np.ones((3, 3), bool)), 4, 4)


@settings(max_examples=60, deadline=None)
@given(blobs().filter(lambda mask: mask.any()))
def test_rectangles_cover_the_mask_tightly(mask: np.ndarray) -> None:
    box = Box.of_mask(mask)
    assert box is not None
    value = encode_rectangle(box, *mask.shape)
    np.testing.assert_array_equal(decode_rectangle(value, *mask.shape), box.to_mask(*mask.shape))


def test_a_rectangle_turns_about_its_corner() -> None:
    value = {"x": 50, "y": 25, "width": 25, "height": 25, "rotation": 90}
    got = decode_rectangle(value, 40, 80)
    expected = np.zeros((40, 80), bool)
    expected[10:30, 30:40] = True
    np.testing.assert_array_equal(got, expected)


def test_any_region_decodes() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    box = Box.of_mask(mask)
    assert box is not None
    values = [
        {"points": mask_to_parts(mask)[0].points.tolist()},
        {"format": "rle", "rle": encode_mask(mask)},
        {"imageDataURL": encode_bitmask(mask)},
        encode_rectangle(box, 30, 40),
    ]
    for value in values:
        region = {"type": "labels", "original_width": 40, "original_height": 30, "value": value}
        np.testing.assert_array_equal(decode_region(region), mask)


@pytest.mark.parametrize(
    "region",
    [
        {},
        {"original_width": 4, "original_height": 4},
        {"original_width": 4, "original_height": 4, "value": {"choices": ["a"]}},
        {"original_width": "x", "original_height": 4, "value": {"rle": []}},
        {"original_width": 4, "original_height": 4, "value": {"x": 1, "y": None, "width": 3, "height": 3}},
        {"original_width": 4, "original_height": 4, "value": {"x": 1, "y": 1, "width": float("inf"), "height": 3}},
    ],
)
def test_regions_without_a_mask_are_errors(region: dict) -> None:
    with pytest.raises(ValueError, match=r"region|rectangle"):
        decode_region(region)
