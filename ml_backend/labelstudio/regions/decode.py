"""Any region of a Label Studio result back to its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int_model.core.types import Mask
from ml_backend.labelstudio.regions.bitmask import decode_bitmask
from ml_backend.labelstudio.regions.polygon import points_to_mask
from ml_backend.labelstudio.regions.rectangle import decode_rectangle
from ml_backend.labelstudio.regions.rle import decode_mask


def decode_region(region: Mapping[str, Any]) -> Mask:
    """The pixels ``bool [H, W]`` of a polygon, brush, bitmask or rectangle region, labelled or not.

    Half of a split pair (``type`` ``labels``) counts as what its value holds.

    Raises:
        ValueError: the region has no size, is damaged, or is of another kind.
    """
    value = region.get("value")
    try:
        height, width = int(region["original_height"]), int(region["original_width"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("a region has the whole numbers original_width and original_height") from None
    if not isinstance(value, Mapping):
        raise ValueError("a region has a value")  # noqa: TRY004 - all errors of one kind
    if "points" in value:
        return points_to_mask(value["points"], height, width)
    if "rle" in value:
        return decode_mask(value["rle"], height, width)
    if "imageDataURL" in value:
        return decode_bitmask(str(value["imageDataURL"]), height, width)
    if "width" in value and "height" in value and "radiusX" not in value:
        return decode_rectangle(value, height, width)
    raise ValueError(f"regions of type {region.get('type')!r} have no mask")
