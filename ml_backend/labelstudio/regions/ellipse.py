"""Label Studio's ellipse format: the centre and two radii in percent, turned about the centre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from int_model.core.types import Mask
from ml_backend.labelstudio.regions.rectangle import turned_numbers


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
