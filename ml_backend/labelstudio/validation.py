"""The last look at a region before it leaves: Label Studio drops a whole batch for one bad number."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from ml_backend.labelstudio.label_config import Control, LabelingConfig
from ml_backend.labelstudio.wire import RegionOut

_log = logging.getLogger(__name__)


def problem(region: RegionOut, config: LabelingConfig) -> str | None:
    """What is wrong with a region under a labeling config, or None."""
    if region.type == "labels":
        controls = [c for c in config.controls if c.labels_name == region.from_name]
    else:
        controls = [c for c in config.controls if c.name == region.from_name and region.type == c.region_type]
    controls = [c for c in controls if c.to_name == region.to_name]
    if not controls:
        return f"the config has no {region.type} '{region.from_name}' on '{region.to_name}'"
    return _label_problem(region, controls) or _geometry_problem(region.value)


def only_valid(regions: Iterable[RegionOut], config: LabelingConfig) -> list[RegionOut]:
    """The regions without bad ones (and without the other half of a bad split pair); each is logged."""
    kept, bad = [], set()
    for region in regions:
        reason = problem(region, config)
        if reason is None:
            kept.append(region)
        else:
            bad.add(region.id)
            _log.error("a region was dropped: %s", reason)
    return [region for region in kept if region.id not in bad]


def _label_problem(region: RegionOut, controls: list[Control]) -> str | None:
    needs = region.type if region.type.endswith("labels") else None
    if needs is None:
        return None
    labels = region.value.get(needs)
    allowed = {label.output for control in controls for label in control.labels}
    if not isinstance(labels, list) or not labels or not set(labels) <= allowed:
        return f"the labels {labels!r} are not among {sorted(allowed)}"
    return None


def _geometry_problem(value: dict[str, Any]) -> str | None:
    if "points" in value:
        points = value["points"]
        if len(points) < 3:
            return "a polygon needs at least 3 points"
        numbers = [number for point in points for number in point]
    elif "rle" in value:
        good = all(isinstance(byte, int) and 0 <= byte <= 255 for byte in value["rle"])
        return None if value["rle"] and good else "a brush code holds whole numbers from 0 to 255"
    elif "imageDataURL" in value:
        return None if str(value["imageDataURL"]).startswith("data:image/png;base64,") else "a bitmask is a PNG"
    elif "vertices" in value:
        if len(value["vertices"]) < 3:
            return "a closed vector needs at least 3 vertices"
        numbers = [vertex[key] for vertex in value["vertices"] for key in ("x", "y")]
    elif "radiusX" in value:
        radii = [value.get(key) for key in ("radiusX", "radiusY")]
        if not all(isinstance(n, int | float) and 0 < n < 1000 for n in radii):  # a turned one may exceed the image
            return "an ellipse needs two radii"
        numbers = [value.get(key) for key in ("x", "y")]
    else:
        numbers = [value.get(key) for key in ("x", "y", "width", "height")]
    if not all(isinstance(n, int | float) and math.isfinite(n) and 0 <= n <= 100 for n in numbers):
        return "a coordinate is not a number from 0 to 100"
    return None
