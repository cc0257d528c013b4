from __future__ import annotations

import base64
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from int_model.core.types import Box
from int_model.masks.polygons import PolygonOptions
from ml_backend.labelstudio.regions import rle
from ml_backend.labelstudio.regions.bitmask import decode_bitmask, encode_bitmask
from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.regions.polygon import MAX_POINTS, decode_polygon, encode_polygons
from ml_backend.labelstudio.regions.rectangle import decode_rectangle, encode_rectangle
from ml_backend.labelstudio.regions.rle import decode_alpha, decode_mask, encode_alpha, encode_mask
from tests.unit.int_model.masks.shapes import blobs, iou, noise

SIZES = (3, 4, 8, 16)
GOLDEN = json.loads((Path(__file__).parent / "rle_golden.json").read_text())


def repr_short(value: object) -> str:
    return repr(value)[:30]


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
        ([0, 0, 0, 16, 57, 27], "too early"),
        ([0, 0, 0, 16, 57, 27, 252], "too early"),
        ([0, 0, 0, 16, 57, 27, 252, 96, 19, 255, 198], "too early"),
        ([0, 0, 0, 32, 57, 27, 254, 31, 255, 0], "another|needs"),
        ([0, 0, 0, 16, 255, 27, 252, 96, 19, 255, 198, 0], "8-bit"),
        ([300], "0..255"),
        (["a"], "0..255"),
        (1 << 33, "0..255"),
        (None, "0..255"),
        ([0, 0, 0, 16, 57, 27, 255, 255, 255, 255, 255], "past the end"),
    ],
)
def test_damaged_rle_is_an_error(code: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_mask(code, 2, 2)


def test_how_many_runs_a_brush_code_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    code = [0, 0, 0, 32, 57, 27, 254, 31, 255, 0]  # one run, and the bits that fill the last byte
    monkeypatch.setattr(rle, "_MAX_CHUNKS", 2)
    assert decode_mask(code, 2, 4).all()
    monkeypatch.setattr(rle, "_MAX_CHUNKS", 1)
    with pytest.raises(ValueError, match="more than 1 runs; use a bitmask"):
        decode_mask(code, 2, 4)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise_value_error(data: bytes) -> None:
    code = [0, 0, 0, 48, 57, 27, *data]
    with contextlib.suppress(ValueError):
        assert decode_mask(code, 3, 4).shape == (3, 4)


def test_a_brush_code_of_megabytes_decodes_in_seconds() -> None:
    """Noise makes the longest codes: half the pixels begin a run."""
    mask = np.random.default_rng(0).random((1200, 1500)) > 0.5
    code = encode_mask(mask)
    assert len(code) > 1_500_000
    begun = time.perf_counter()
    np.testing.assert_array_equal(decode_mask(code, *mask.shape), mask)
    assert time.perf_counter() - begun < 6


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 9), st.integers(0, 255)), max_size=30))
def test_literals_and_runs_of_every_size_decode(chunks: list[tuple[bool, int, int, int]]) -> None:
    """Written bit by bit after the description of the format."""
    bits, values = "", []
    for is_run, size, length, word in chunks:
        length = min(length, 1 << SIZES[size])
        words = [word] if is_run else [(word + 7 * i) % 256 for i in range(length)]
        bits += f"{int(is_run)}{size:02b}{length - 1:0{SIZES[size]}b}" + "".join(f"{w:08b}" for w in words)
        values += words * length if is_run else words
    fill = -len(values) % 4 or 4
    bits += f"110{fill - 1:08b}{0:08b}"
    values += [0] * fill
    head = f"{len(values):032b}00111" + "".join(f"{size - 1:04b}" for size in SIZES)
    text = head + bits + "0" * (8 - (len(head) + len(bits)) % 8)
    code = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert decode_alpha(code, 1, len(values) // 4).tolist() == [values[3::4]]


# --- polygon ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(noise | blobs(), st.floats(0.0, 6.0), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_polygons_keep_the_stated_iou_as_they_are_read(mask: np.ndarray, epsilon: float, bound: float) -> None:
    options = PolygonOptions(epsilon=epsilon, min_iou=bound, min_area=0)
    for points, part in encode_polygons(mask, options):
        got = decode_polygon(points, *mask.shape)
        assert iou(got, part.mask) >= (bound if epsilon else 1.0)
        assert min(map(min, points)) >= 0.0
        assert max(map(max, points)) <= 100.0
        assert points == [[round(x, 3), round(y, 3)] for x, y in points]


def test_parts_of_a_mask_are_separate() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:10, 2:10] = mask[20:38, 20:38] = True
    (first, _), (_, second) = encode_polygons(mask)
    assert first == [[50, 50], [95, 50], [95, 95], [50, 95]]
    assert second.mask.sum() == 64


@pytest.mark.parametrize(
    "points",
    [[], None, 7, [[0, 0], [1, 1]], [[0, 0], [1, 1], [float("nan"), 2]], [1, 2, 3], [["a", 1]] * 3, [[None, 1]] * 3,
     [[0, 0], [1e300, 1], [1, 1]], [[0, 0]] * 100_001],
    ids=repr_short,
)  # fmt: skip
def test_bad_polygons_are_errors(points: list) -> None:
    with pytest.raises(ValueError, match="polygon"):
        decode_polygon(points, 10, 10)


def test_a_mask_may_reach_the_edges_of_its_image() -> None:
    ((points, part),) = encode_polygons(np.ones((30, 7), bool))
    assert sorted(points) == [[0, 0], [0, 100], [100, 0], [100, 100]]
    assert part.mask.all()


def test_a_triangle_is_a_polygon_and_so_are_as_many_points_as_are_read() -> None:
    corner = decode_polygon([[0, 0], [98, 0], [0, 98]], 10, 10)
    np.testing.assert_array_equal(corner, np.add.outer(np.arange(10), np.arange(10)) <= 8)
    many = [[0, 0], [98, 0], [0, 98]] + [[0, 50]] * (MAX_POINTS - 3)
    np.testing.assert_array_equal(decode_polygon(many, 10, 10), corner)
    with pytest.raises(ValueError, match="at most 100000 points, not 100001"):
        decode_polygon([*many, [0, 50]], 10, 10)


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


RED, BLACK, CLEAR = (255, 0, 0, 255), (0, 0, 0, 255), (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("pixels", "painted"),
    [
        ([0, 127, 128, 255], [False, False, True, True]),
        ([0, 0, 0, 0], [False] * 4),
        ([RED, BLACK, BLACK, RED], [True, False, False, True]),
        ([BLACK] * 4, [True] * 4),
        ([RED, CLEAR, BLACK, CLEAR], [True, False, True, False]),
        ([(255, 0, 0, level) for level in (0, 127, 128, 255)], [False, False, True, True]),
    ],
    ids=["grey", "black", "opaque with red", "opaque and black", "partly clear", "levels of alpha"],
)
def test_bitmasks_of_others_are_read_by_alpha_or_by_red(pixels: list[Any], painted: list[bool]) -> None:
    out = io.BytesIO()
    PilImage.fromarray(np.array([pixels], np.uint8)).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    assert decode_bitmask(url, 1, 4).tolist() == [painted]


def test_an_opaque_bitmask_is_white_on_black() -> None:
    mask = np.array([[True, False, False], [False, True, True]])
    url = encode_bitmask(mask, opaque=True)
    with PilImage.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
        assert (picture.mode, np.asarray(picture).tolist()) == ("L", [[255, 0, 0], [0, 255, 255]])
    np.testing.assert_array_equal(decode_bitmask(url, 2, 3), mask)
    for odd in (np.zeros((0, 3), bool), np.ones((2, 2, 2), bool)):
        with pytest.raises(ValueError, match="two dimensions and at least one pixel"):
            encode_bitmask(odd)


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


def test_a_rectangle_is_in_thousandths_of_a_percent() -> None:
    value = encode_rectangle(Box(1, 2, 2, 5), 7, 3)
    assert value == {"x": 33.333, "y": 28.571, "width": 33.334, "height": 42.858, "rotation": 0}


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
        {"points": encode_polygons(mask)[0][0]},
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
        {"original_width": float("inf"), "original_height": 4, "value": {"rle": []}},
        {"original_width": 0, "original_height": 4, "value": {"rle": []}},
        {"original_width": 10**6, "original_height": 10**6, "value": {"x": 1, "y": 1, "width": 3, "height": 3}},
    ],
)
def test_regions_without_a_mask_are_errors(region: dict) -> None:
    with pytest.raises(ValueError, match=r"region|rectangle"):
        decode_region(region)


def test_a_region_of_another_size_is_refused_before_it_is_drawn() -> None:
    value = {"x": 0, "y": 0, "width": 100, "height": 100}
    region = {"original_width": 16_000, "original_height": 16_000, "value": value}
    with pytest.raises(ValueError, match="its regions are for 16000 x 16000 pixels, the image has 40 x 30"):
        decode_region(region, (30, 40))
    assert decode_region({**region, "original_width": 40, "original_height": 30}, (30, 40)).all()
