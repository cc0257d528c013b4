"""Any region of a Label Studio result back to its mask and its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int_model.core.types import Mask
from ml_backend.labelstudio.regions.bitmask import decode_bitmask
from ml_backend.labelstudio.regions.ellipse import decode_ellipse
from ml_backend.labelstudio.regions.polygon import decode_polygon
from ml_backend.labelstudio.regions.rectangle import decode_rectangle
from ml_backend.labelstudio.regions.rle import decode_mask

MAX_PIXELS = 1 << 28
"""Most pixels of a region: a claimed size costs memory before anything else is looked at."""


class NotAnAreaError(ValueError):
    """The region is of a kind that covers no pixels (a key point, an open line), or of an unknown kind."""


class OtherSizeError(ValueError):
    """The region was drawn on an image of another size."""


def decode_region(region: Mapping[str, Any], size: tuple[int, int] | None = None) -> Mask:
    """The pixels ``bool [H, W]`` of a polygon, brush, bitmask, rectangle, ellipse or closed vector, labelled or not.

    Half of a split pair (``type`` ``labels``) counts as what its value holds.

    Args:
        region: one entry of a ``result``.
        size: (H, W) of the image, where it is known: the size that the region claims must be that one. Without it a
            claim of up to ``MAX_PIXELS`` is believed.

    Raises:
        NotAnAreaError: the region is of a kind without a mask.
        OtherSizeError: it claims another size.
        ValueError: it has no size, or is damaged.
    """
    value = region.get("value")
    if not isinstance(value, Mapping) or not _covers_pixels(value):
        raise NotAnAreaError(f"regions of type {region.get('type')!r} have no mask")
    try:
        height, width = int(region["original_height"]), int(region["original_width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("a region has the whole numbers original_width and original_height") from None
    if size is not None and (height, width) != size:
        raise OtherSizeError(
            f"its regions are for {width} x {height} pixels, the image has {size[1]} x {size[0]}; "
            "give the images that were annotated"
        )
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a region has from 1 to {MAX_PIXELS} pixels, not {width} x {height}")
    if "points" in value:
        return decode_polygon(value["points"], height, width)
    if "rle" in value:
        return decode_mask(value["rle"], height, width)
    if "imageDataURL" in value:
        return decode_bitmask(str(value["imageDataURL"]), height, width)
    if "radiusX" in value:
        return decode_ellipse(value, height, width)
    if "width" in value:
        return decode_rectangle(value, height, width)
    return decode_polygon([[vertex["x"], vertex["y"]] for vertex in value["vertices"]], height, width)


def region_labels(region: Any) -> list[str]:
    """The labels of one entry of a ``result``, whatever it is: those under any key that ends in ``labels``."""
    value = region.get("value") if isinstance(region, Mapping) else None
    if not isinstance(value, Mapping):
        return []
    listed = [names for key, names in value.items() if str(key).endswith("labels") and isinstance(names, list)]
    return [str(name) for names in listed for name in names]


def _covers_pixels(value: Mapping[str, Any]) -> bool:
    if any(key in value for key in ("points", "rle", "imageDataURL", "radiusX")):
        return True
    return {"width", "height"} <= value.keys() or _is_closed(value)


def _is_closed(value: Mapping[str, Any]) -> bool:
    """Whether a vector is a closed chain of straight lines; curves and branches are not drawn."""
    vertices = value.get("vertices")
    if value.get("closed") is not True or not isinstance(vertices, list):
        return False
    if not all(isinstance(vertex, Mapping) and {"x", "y"} <= vertex.keys() for vertex in vertices):
        return False
    before = vertices[-1:] + vertices[:-1]
    return not any(
        vertex.get("isBezier") or vertex.get("prevPointId") not in (None, previous.get("id"))
        for vertex, previous in zip(vertices, before, strict=True)
    )
