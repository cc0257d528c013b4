"""Label Studio's vector format: a chain of vertices in percent, each naming the one before it; closed, a polygon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def encode_vector(points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A closed vector of straight lines through ``[x, y]`` in percent, as `encode_polygons` gives them."""
    names = [f"v{index}" for index in range(1, len(points) + 1)]
    before = [None, *names[:-1]]
    vertices = [
        {"id": name, "prevPointId": previous, "x": x, "y": y, "isBezier": False}
        for name, previous, (x, y) in zip(names, before, points, strict=True)
    ]
    return {"vertices": vertices, "closed": True}
