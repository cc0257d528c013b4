"""Label Studio's ellipse format: the centre and two radii in percent, turned about the centre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from int_model.core.types import Mask
from ml_backend.labelstudio.regions.rectangle import turned_numbers


def encode_ellipse(mask: Mask) -> dict[str, float] | None:
    """The ellipse with the centre, the size and the direction of a mask ``bool [H, W]``; None for an empty one.

    Its second moments are those of the mask, so a mask that is an ellipse comes back. It may stick out of the image
    where the mask is cut off by the edge.
    """
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    height, width = mask.shape
    x, y = columns + 0.5, rows + 0.5
    pixel = 1.0 / 12.0  # the spread of one pixel, without which a line would have no width
    spread = np.cov(np.stack([x, y]), bias=True) + pixel * np.eye(2) if x.size > 1 else pixel * np.eye(2)
    values, vectors = np.linalg.eigh(spread)
    down, across = 2.0 * np.sqrt(values)
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180.0
    numbers = {
        "x": 100.0 * float(x.mean()) / width,
        "y": 100.0 * float(y.mean()) / height,
        "radiusX": 100.0 * float(across) / width,
        "radiusY": 100.0 * float(down) / height,
        "rotation": angle,
    }
    return {name: round(number, 3) for name, number in numbers.items()}


def decode_ellipse(value: Mapping[str, Any], height: int, width: int) -> Mask:
    """The pixels ``bool [height, width]`` whose centres lie in the ellipse; ``rotation`` in degrees, clockwise.

    ``radiusX`` is in percent of the width, ``radiusY`` of the height; an ellipse without extent holds no pixel.

    Raises:
        ValueError: a coordinate is missing or not a finite number.
    """
    x, y, radius_x, radius_y, angle = turned_numbers(value, "ellipse", ("x", "y", "radiusX", "radiusY"))
    mask = np.zeros((height, width), dtype=np.bool_)
    across, down = abs(radius_x) * width / 100.0, abs(radius_y) * height / 100.0
    if not across or not down:
        return mask
    centre_x, centre_y = x * width / 100.0, y * height / 100.0
    columns = np.arange(width, dtype=np.float64) + 0.5 - centre_x
    rows = (np.arange(height, dtype=np.float64) + 0.5 - centre_y)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    return ((columns * cos + rows * sin) / across) ** 2 + ((rows * cos - columns * sin) / down) ** 2 <= 1.0
