"""A vector as Label Studio stores it: a chain of vertices that closes, and reads back as the polygon that it was."""

from __future__ import annotations

import numpy as np

from ml_backend.labelstudio.regions.decode import decode_region
from ml_backend.labelstudio.regions.polygon import decode_polygon
from ml_backend.labelstudio.regions.vector import encode_vector

POINTS = [[10.0, 10.0], [90.0, 10.0], [50.5, 90.0]]


def test_every_vertex_names_the_one_before_it() -> None:
    value = encode_vector(POINTS)
    names = [vertex["id"] for vertex in value["vertices"]]
    assert names == ["v1", "v2", "v3"]
    assert [vertex["prevPointId"] for vertex in value["vertices"]] == [None, "v1", "v2"]
    assert [[vertex["x"], vertex["y"]] for vertex in value["vertices"]] == POINTS
    assert [vertex["isBezier"] for vertex in value["vertices"]] == [False] * 3
    assert value["closed"] is True


def test_a_vector_covers_what_its_polygon_covers() -> None:
    region = {
        "type": "vectorlabels", "value": encode_vector(POINTS), "original_width": 80, "original_height": 60,
    }  # fmt: skip
    mask = decode_region(region)
    assert mask is not None
    assert mask.any()
    np.testing.assert_array_equal(mask, decode_polygon(POINTS, 60, 80))
