"""Reading an interactive context: prompts, signs, pixels, and the control that takes the answer."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.labelstudio.clicks import (
    MAX_BOXES,
    ClickError,
    box_of,
    parse_click,
    prompt_of_click,
    target_of,
    to_prompt,
)
from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.regions.bitmask import decode_bitmask, encode_bitmask
from ml_backend.labelstudio.regions.rectangle import decode_rectangle
from ml_backend.labelstudio.regions.rle import encode_mask
from ml_backend.labelstudio.task_prompt import parse_extra_params

IMAGE = '<Image name="image" value="$image"/>'
CATS = '<Label value="Cat"/><Label value="Dog" alias="hund"/>'


def point(x: Any = 10, y: Any = 20, label: str = "Cat", **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.3, "keypointlabels": [label], "labels": [label]}
    return {"type": "keypointlabels", "from_name": "kp", "to_name": "image", "value": value} | more


def box(x: Any, y: Any, w: Any, h: Any, rotation: Any = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": ["Cat"]}
    return {"type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value} | more


def brush(mask: np.ndarray, **more: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": list(encode_mask(mask)), "brushlabels": ["Cat"]}
    size = {"original_height": mask.shape[0], "original_width": mask.shape[1]}
    return {"type": "brushlabels", "from_name": "b", "to_name": "image", "value": value} | size | more


def prompt_of(*regions: Any, height: int = 60, width: int = 80) -> Any:
    click = parse_click({"result": list(regions)})
    assert click is not None
    return to_prompt(click, height, width)


@pytest.mark.parametrize(
    ("more", "value", "expected"),
    [
        ({}, {}, 1),
        ({"is_positive": None}, {}, 1),
        ({"is_positive": True}, {}, 1),
        ({"is_positive": False}, {}, 0),
        ({"is_positive": 0}, {}, 0),
        ({"is_positive": "false"}, {}, 0),
        ({"is_positive": "yes"}, {}, 1),
        ({}, {"positive": False}, 0),
        ({}, {"positive": True}, 1),
    ],
)
def test_signs(more: dict[str, Any], value: dict[str, Any], expected: int) -> None:
    region = point(**more)
    region["value"] = region["value"] | value
    prompt = prompt_of(point(50, 50), region)
    assert prompt.labels.tolist() == [1, expected]
    assert prompt.points.tolist() == [[40, 30], [8, 12]]


def test_the_far_corner_is_inside() -> None:
    assert prompt_of(point(100, 100)).points.tolist() == [[79.5, 59.5]]


@pytest.mark.parametrize("value", [{"x": 25, "y": 50, "width": 25, "height": 25}, {"x": 25.0, "y": 50, "width": 25,
                                    "height": 25, "rotation": None}])  # fmt: skip
def test_a_box_in_pixels(value: dict[str, Any]) -> None:
    assert box_of(value, 60, 80).as_tuple() == (20, 30, 40, 45)


numbers = st.floats(-20, 120)


@settings(max_examples=150, deadline=None)
@given(numbers, numbers, st.floats(1, 90), st.floats(1, 90), st.floats(-360, 360))
def test_a_turned_box_is_the_hull_of_its_pixels(x: float, y: float, w: float, h: float, angle: float) -> None:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": angle}
    pixels = decode_rectangle(value, 60, 80)  # an independent way: which pixel centres lie in the turned rectangle
    try:
        hull = box_of(value, 60, 80)
    except ValueError:
        assert not pixels.any()
        return
    rows, columns = np.nonzero(pixels)
    assert all(hull.x1 - 1e-6 <= c + 0.5 <= hull.x2 + 1e-6 for c in columns)
    assert all(hull.y1 - 1e-6 <= r + 0.5 <= hull.y2 + 1e-6 for r in rows)
    assert 0 <= hull.x1 < hull.x2 <= 80
    assert 0 <= hull.y1 < hull.y2 <= 60


def test_a_box_turned_by_a_right_angle_about_its_top_left_corner() -> None:
    # 40 x 10 pixels at (40, 10), a quarter turn clockwise: it hangs down, to the left of its corner
    hull = box_of({"x": 40, "y": 10, "width": 40, "height": 10, "rotation": 90}, 100, 100)
    assert hull.as_tuple() == pytest.approx((30, 10, 40, 50))


def test_a_negative_box_is_a_point_beside_the_object() -> None:
    prompt = prompt_of(box(0, 0, 50, 50), box(50, 50, 50, 50, is_positive=False))
    assert len(prompt.boxes) == 1
    assert (prompt.points.tolist(), prompt.labels.tolist()) == ([[60, 45]], [0])


def test_strokes_are_joined_and_signed() -> None:
    first, second, bad = (np.zeros((60, 80), np.bool_) for _ in range(3))
    first[5:10, 5:30], second[20:25, 5:30], bad[40:50, 40:50] = True, True, True
    bitmask = {"type": "bitmasklabels", "from_name": "b", "to_name": "image", "is_positive": False,
               "original_height": 60, "original_width": 80,
               "value": {"imageDataURL": encode_bitmask(bad), "bitmasklabels": ["Cat"]}}  # fmt: skip
    prompt = prompt_of(brush(first), brush(second), bitmask)
    assert (prompt.stroke == first | second).all()
    assert (prompt.avoid == bad).all()


@pytest.mark.parametrize(
    "region",
    [
        point(101, 5), point("a", 5), point(None, 5), point(math.nan, 1), point(True, 1), point(10**400, 1),
        box(1, 1, 0, 5), box(200, 1, 5, 5), box(1, 1, 5, math.inf), box(1, 1, 5, 5, rotation="x"),
        point(is_positive=False),
        brush(np.zeros((60, 80), np.bool_)), brush(np.ones((6, 8), np.bool_)),
        brush(np.ones((60, 80), np.bool_)) | {"original_width": 10**9, "original_height": 10**9},
        brush(np.ones((60, 80), np.bool_)) | {"value": {"rle": [1, 2, 3], "format": "rle"}},
        brush(np.ones((60, 80), np.bool_)) | {"value": {"rle": "abc"}},
        brush(np.ones((60, 80), np.bool_)) | {"value": {"rle": [{}]}},
        brush(np.ones((60, 80), np.bool_)) | {"value": {"imageDataURL": "data:image/png;base64,AAAA"}},
        brush(np.ones((60, 80), np.bool_)) | {"value": {"points": [1]}},
    ],
)  # fmt: skip
def test_prompts_that_make_no_sense_say_why(region: dict[str, Any]) -> None:
    with pytest.raises(ClickError, match=r"\w"):
        prompt_of(region)


def test_a_bad_prompt_does_not_spoil_a_good_one() -> None:
    assert prompt_of(point("?", 1), point(50, 50)).points.tolist() == [[40, 30]]


@pytest.mark.parametrize("context", [{}, {"result": None}, {"result": "x"}, {"result": [None, 3, {}]},
                                     {"result": [{"type": "choices", "value": {"choices": ["a"]}}]},
                                     {"result": [{"type": "ellipse", "value": {"x": 1, "y": 1, "radiusX": 3}}]},
                                     {"result": [{"type": "keypointlabels", "value": None}]}])  # fmt: skip
def test_contexts_without_prompts(context: dict[str, Any]) -> None:
    assert parse_click(context) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["x", "y", "width", "height", "rle", "type", "value", "id", "points", "imageDataURL", "labels", "rotation",
         "is_positive", "from_name", "to_name", "item_index"]), inner, max_size=6),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(json_values, max_size=4), st.lists(st.dictionaries(st.sampled_from(
    ["x", "y", "width", "height", "rle", "points", "imageDataURL", "rotation"]), json_values), max_size=3))  # fmt: skip
def test_no_context_is_odd_enough_to_raise_anything_else(entries: list[Any], values: list[Any]) -> None:
    kinds = ("keypointlabels", "rectanglelabels", "brushlabels")
    regions = [{"type": kinds[i % 3], "value": value} for i, value in enumerate(values)]
    click = parse_click({"result": entries + regions})
    if click is not None:
        with contextlib.suppress(ClickError):
            to_prompt(click, 6, 8)


def test_the_last_label_counts_and_halves_of_a_pair_are_one() -> None:
    pair = [{"id": "a", "type": "keypoint", "from_name": "kp", "to_name": "image", "value": {"x": 1, "y": 2}},
            {"id": "a", "type": "labels", "from_name": "l", "to_name": "image",
             "value": {"x": 1, "y": 2, "labels": ["Dog"]}}]  # fmt: skip
    click = parse_click({"result": [point(label="Cat"), *pair]})
    assert click is not None
    assert (click.label, click.control, len(click.shapes)) == ("Dog", "kp", 1)


def test_prompts_without_a_kind_go_by_their_numbers() -> None:
    for value, kind in (
        ({"x": 1, "y": 2, "width": 3, "height": 4}, "box"),
        ({"x": 1, "y": 2, "width": 0.3}, "point"),
        ({"x": 1, "y": 2}, "point"),
    ):
        assert [shape.kind for shape in clicked({"type": "labels", "value": value}).shapes] == [kind]


def test_a_prompt_that_makes_no_sense_is_named_by_its_reason() -> None:
    with pytest.raises(ClickError, match="a box has no area inside the image"):
        prompt_of(box(200, 1, 5, 5))
    with pytest.raises(ClickError, match="point"):
        prompt_of(point(101, 5))


@pytest.mark.parametrize(("label", "prompt"), [("Cat", "a cat"), ("hund", "a dog"), ("Elk", "a cat")])
def test_a_click_has_the_prompt_of_its_label(label: str, prompt: str) -> None:
    labels = CATS.replace('"Cat"', '"Cat" model_prompt="a cat"').replace('"Dog"', '"Dog" model_prompt="a dog"')
    config = parse_label_config(
        f'<View>{IMAGE}{KEYPOINT}<BrushLabels name="b" toName="image">{labels}</BrushLabels></View>'
    )
    params = parse_extra_params(None)
    assert prompt_of_click(config, clicked(point(label=label)), params, "", {}) == prompt
    bare = parse_label_config(
        f'<View>{IMAGE}<KeyPoint name="kp" toName="image"/><Brush name="b" toName="image"/></View>'
    )
    assert prompt_of_click(bare, clicked(point()), params, "an animal", {}) == "an animal"


def test_far_too_many_prompts_are_cut_with_a_note() -> None:
    assert clicked(*[box(1, 1, 5, 5)] * MAX_BOXES).notes == ()
    click = parse_click({"result": [box(1, 1, 5, 5)] * (MAX_BOXES + 5)})
    assert click is not None
    assert len(click.shapes) == MAX_BOXES
    assert click.notes == (f"only the last {MAX_BOXES} of {MAX_BOXES + 5} prompts were used",)


POLYGON = f'<PolygonLabels name="p" toName="image">{CATS}</PolygonLabels>'
BRUSH = f'<BrushLabels name="b" toName="image">{CATS}</BrushLabels>'
RECTANGLE = f'<RectangleLabels name="box" toName="image" smart="true">{CATS}</RectangleLabels>'
KEYPOINT = f'<KeyPointLabels name="kp" toName="image" smart="true">{CATS}</KeyPointLabels>'


@pytest.mark.parametrize(
    ("body", "region", "expected"),
    [
        (KEYPOINT + POLYGON, point(), ("p", "Cat")),
        (KEYPOINT + POLYGON + BRUSH, point(), ("p", "Cat")),
        (KEYPOINT + POLYGON + BRUSH, brush(np.ones((2, 2), np.bool_)), ("b", "Cat")),
        (RECTANGLE + BRUSH, box(1, 1, 5, 5), ("b", "Cat")),
        (RECTANGLE, box(1, 1, 5, 5), ("box", "Cat")),
        (KEYPOINT + POLYGON, point(label="hund"), ("p", "hund")),
        (KEYPOINT + POLYGON, point(label="Dog"), ("p", "hund")),
        (KEYPOINT + POLYGON, point(label="cat"), ("p", "Cat")),
        (KEYPOINT + POLYGON.replace("Cat", "Cow") + BRUSH, point(), ("b", "Cat")),
        (KEYPOINT + POLYGON.replace(" name", " model_skip=\"true\" name", 1) + BRUSH, point(), ("b", "Cat")),
        (KEYPOINT + BRUSH, point(label="Elk"), ("b", "Cat")),
        ('<KeyPoint name="kp" toName="image"/><Brush name="br" toName="image"/>', point(), ("br", None)),
        (f'<Labels name="l" toName="image">{CATS}</Labels><Brush name="br" toName="image"/>', point(label="Dog"),
         ("br", "hund")),
    ],
)  # fmt: skip
def test_the_answer_belongs_to(body: str, region: dict[str, Any], expected: tuple[str, str | None]) -> None:
    config = parse_label_config(f"<View>{IMAGE}{body}</View>")
    click = parse_click({"result": [region]})
    assert click is not None
    target, note = target_of(config, click, click.image(config).name)
    assert (target.control.name, target.label.output if target.label else None) == expected
    assert note == ("'b' has no label 'Elk'" if click.label == "Elk" else "")


def test_the_grey_picture_is_opaque_and_exact() -> None:
    import base64
    import io

    from PIL import Image as PilImage

    mask = np.random.default_rng(0).random((7, 9)) > 0.5
    url = encode_bitmask(mask, opaque=True)
    assert (decode_bitmask(url, 7, 9) == mask).all()
    with PilImage.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        rgba = np.asarray(picture.convert("RGBA"))
    assert ((rgba[..., 0] > 127) == mask).all()
    assert (rgba[..., 3] == 255).all()


def clicked(*regions: Any) -> Any:
    found = parse_click({"result": list(regions)})
    assert found is not None
    return found


ONE, TWO = point(10, 20, id="a"), point(30, 40, id="b")


@pytest.mark.parametrize(
    ("newer", "older", "expected"),
    [
        ([ONE, TWO], [ONE], True),
        ([ONE], [ONE], True),
        ([ONE], [ONE, TWO], False),
        ([TWO, ONE], [ONE], False),
        ([TWO], [ONE], False),
        ([ONE | {"id": "c"}, TWO], [ONE], False),  # somebody else's, at the same place
        ([ONE | {"is_positive": False}, TWO], [ONE], False),
        ([point(10, 21, id="a"), TWO], [ONE], False),
        ([box(1, 2, 3, 4, id="c"), ONE], [ONE], True),
        ([ONE, box(1, 2, 3, 4, id="c")], [box(1, 2, 3, 4, id="c")], True),
        ([ONE], [box(1, 2, 3, 4, id="c")], False),
        ([ONE, box(1, 2, 3, 4, id="c")], [box(1, 2, 3, 4, id="d")], False),
        ([point(10, 20, "Dog", id="a")], [ONE], False),
        ([ONE | {"to_name": "other"}], [ONE], False),
        ([ONE | {"item_index": 1}], [ONE], False),
        ([ONE | {"item_index": 0}], [ONE], True),
    ],
)
def test_a_click_continues_another_whose_prompts_it_sends_again(newer: Any, older: Any, expected: bool) -> None:
    assert clicked(*newer).continues(clicked(*older)) is expected


def stroke(values: list[Any], **value: Any) -> dict[str, Any]:
    return {"id": "s", "type": "brush", "to_name": "image", "value": {"points": values, **value}}


LONG = [[0.25 * index, 1.0] for index in range(300)]


@pytest.mark.parametrize(
    ("newer", "same"),
    [
        (stroke([*LONG]), True),
        (stroke([[0.5, 1.0], *LONG[1:]]), False),
        (stroke([*LONG, [1.0, 1.0]]), False),
        (stroke(LONG[::-1]), False),
        (stroke([*LONG], width=2), False),
        (stroke(LONG[:3]), False),
    ],
)
def test_long_strokes_are_told_apart(newer: Any, same: bool) -> None:
    assert clicked(newer).continues(clicked(stroke(LONG))) is same


def test_comparing_strokes_of_megabytes_costs_nothing() -> None:
    """The event loop compares a click with every other one that is on its way."""
    older, newer = (clicked(stroke([7.0] * 1_000_000)) for _ in range(2))
    begun = time.thread_time()
    values = [click.shapes[0].region["value"] for click in (older, newer)]
    assert values[0] == values[1]
    naive = time.thread_time() - begun
    begun = time.thread_time()
    for _ in range(20):
        assert newer.continues(older)
    assert time.thread_time() - begun < naive


@pytest.mark.parametrize(
    ("index", "expected"), [(3, 3), (0, 0), (-1, 0), (True, 0), (False, 0), ("1", 0), (1.0, 0), (None, 0)]
)
def test_which_image_of_a_list(index: Any, expected: int) -> None:
    found = clicked(ONE | {"item_index": index}).item_index
    assert (found, type(found)) == (expected, int)
