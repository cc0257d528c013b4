"""The last look at a region: Label Studio drops a whole batch for one bad one, so a bad one must not leave."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ml_backend.labelstudio.label_config import parse_label_config
from ml_backend.labelstudio.validation import only_valid, problem
from ml_backend.labelstudio.wire import RegionOut

CONFIG = parse_label_config(
    '<View><Image name="image" value="$image"/><Image name="other" value="$other"/>'
    '<PolygonLabels name="polygon" toName="image"><Label value="Cat"/><Label value="Dog" alias="d"/></PolygonLabels>'
    '<BrushLabels name="brush" toName="image"><Label value="Cat"/></BrushLabels>'
    '<Labels name="names" toName="image"><Label value="Cat"/></Labels><Rectangle name="box" toName="image"/></View>'
)
TRIANGLE: list[list[Any]] = [[0, 0], [100, 0], [50.5, 100]]


def region(value: dict[str, Any], kind: str = "polygonlabels", name: str = "polygon", **more: Any) -> RegionOut:
    labels = {kind: ["Cat"]} if kind.endswith("labels") else {}
    facts = {"id": "a", "to_name": "image", "original_width": 10, "original_height": 10, "score": 0.5, **more}
    return RegionOut(from_name=name, type=kind, value={**labels, **value}, **facts)


def box(**value: Any) -> dict[str, Any]:
    return {"x": 0, "y": 0, "width": 100, "height": 50.5, **value}


GOOD = [
    region({"points": TRIANGLE}),
    region({"points": TRIANGLE, "polygonlabels": ["d"]}),
    region({"rle": [0, 255, 7]}, "brushlabels", "brush"),
    region({"imageDataURL": "data:image/png;base64,AAAA"}, "brushlabels", "brush"),
    region({"vertices": [{"x": x, "y": y} for x, y in TRIANGLE]}),
    region({"x": 0, "y": 100, "radiusX": 0.5, "radiusY": 999.5}),
    region({"x": 0, "y": 100, "radiusX": 1, "radiusY": 1}),
    region(box(), "rectangle", "box"),
    region(box(), "labels", "names"),
]
BAD: list[tuple[RegionOut, str]] = [
    (region({"points": TRIANGLE}, name="nobody"), "the config has no polygonlabels 'nobody'"),
    (region({"points": TRIANGLE}, name="brush"), "the config has no polygonlabels 'brush'"),
    (region({"points": TRIANGLE}, to_name="other"), "on 'other'"),
    (region(box(), "labels", "polygon"), "the config has no labels 'polygon'"),
    (region({"points": TRIANGLE, "polygonlabels": ["Fish"]}), "not among"),
    (region({"points": TRIANGLE, "polygonlabels": ["Cat", "Fish"]}), "not among"),
    (region({"points": TRIANGLE, "polygonlabels": []}), "not among"),
    (region({"points": TRIANGLE, "polygonlabels": "Cat"}), "not among"),
    (region({"points": TRIANGLE[:2]}), "at least 3 points"),
    *[(region({"points": [*TRIANGLE, [n, 5]]}), "not a number") for n in (-0.1, 100.1, math.nan, math.inf, None, "5")],
    *[(region({"rle": code}, "brushlabels", "brush"), "0 to 255") for code in ([], [256], [-1], [0.5], ["1"])],
    (region({"imageDataURL": "data:image/jpeg;base64,AAAA"}, "brushlabels", "brush"), "PNG"),
    (region({"vertices": [{"x": 1, "y": 1}] * 2}), "at least 3 vertices"),
    (region({"vertices": [{"x": 1, "y": 1}] * 3 + [{"x": 101, "y": 1}]}), "not a number"),
    *[(region({"x": 1, "y": 1, "radiusX": 1, "radiusY": n}), "two radii") for n in (0, -1, 1000, None, "5")],
    (region({"x": 1, "y": 1, "radiusX": 1}), "two radii"),
    (region({"x": 101, "y": 1, "radiusX": 1, "radiusY": 1}), "not a number"),
    *[(region(box(width=n), "rectangle", "box"), "not a number") for n in (-1, 101, None)],
    (region({"x": 1, "y": 1, "width": 1}, "rectangle", "box"), "not a number"),
]


@pytest.mark.parametrize("good", GOOD)
def test_a_region_that_label_studio_can_show_may_leave(good: RegionOut) -> None:
    assert problem(good, CONFIG) is None
    assert only_valid([good], CONFIG) == [good]


@pytest.mark.parametrize(("bad", "said"), BAD)
def test_a_region_that_would_cost_the_whole_batch_is_named_and_stays(bad: RegionOut, said: str) -> None:
    found = problem(bad, CONFIG)
    assert found is not None
    assert said in found
    good = GOOD[0].model_copy(update={"id": "b"})
    assert only_valid([bad, good, bad], CONFIG) == [good]


def test_half_a_pair_does_not_leave_alone() -> None:
    shape, named = region(box(), "rectangle", "box"), region(box(), "labels", "names")
    broken = region(box(x=-5), "labels", "names")
    assert only_valid([shape, named], CONFIG) == [shape, named]
    assert only_valid([shape, broken], CONFIG) == []
    assert only_valid([broken, shape], CONFIG) == []
